"""What a run leaves behind, in one folder: everything that reads a run needs this folder alone.

config.json       every knob                            metrics.jsonl   one line an entry of the log
dataset.json      class names, shape, statistics        summary.json    the score of the test split
environment.json  versions, devices, commit             *.png           curves, confusion matrix, mistakes
checkpoints/      by Orbax: the newest, and the best    events.out.*    the log for TensorBoard
"""
