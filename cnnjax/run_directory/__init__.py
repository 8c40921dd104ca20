"""What a run leaves behind, in one folder: everything that reads a run needs this folder alone.

config.json       every knob                            metrics.jsonl   one line an entry of the log
dataset.json      class names, shape, statistics        summary.json    the score of the test split
environment.json  of each start: versions, devices,     *.png           curves, confusion matrix, mistakes
                  commit, knobs that were changed       events.out.*    the log for TensorBoard
checkpoints/      by Orbax: the newest, and the best    .lock           held by the process that trains
"""
