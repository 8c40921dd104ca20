"""Experiments that are installed with cnnjax: `--config=digits` names one wherever there is no file of that name."""
