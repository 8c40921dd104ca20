"""Classification: one label an example.

- `options`: what an experiment may vary;
- `loss`: cross-entropy, with label smoothing, mixed labels and auxiliary heads;
- `metrics`: the sums over a batch, and the scores, intervals and tables that are made of them;
- `mistakes`: the examples that cost most;
- `figures`: the confusion matrix and those mistakes as pictures;
- `predict`: probabilities of images, in Python and on the command line;
- `task`: all of it as the object that training, evaluation and prediction call (`cnnjax/tasks/__init__.py`).
"""
