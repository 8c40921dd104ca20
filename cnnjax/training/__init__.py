"""Training a network: from a built experiment to a finished run directory.

- `fit`: a whole run, begun anew or gone on with;
- `loop`: step after step; `decisions`: what is due at a step; `step`: one update, a pure function;
- `state`, `initial`: what a run carries from step to step, and where that begins;
- `opening`: is a run directory ours, and is it the same run;
- `agreement`, `interruption`: signals, and what several processes do at the same step;
- `logbook`, `events`: metrics.jsonl and TensorBoard;
- `scoring`, `report`: the test split at the end, and the figures.
"""
