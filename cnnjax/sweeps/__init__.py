"""Many runs at once: factors and seeds become trials, trials runs, and runs a table with mean and spread.

DIR/sweep.json            what the sweep is               DIR/results.csv   one line a trial
DIR/VARIANT/seedN/        the run directory of a trial    DIR/results.md    one line a variant, and results.png
DIR/VARIANT/seedN/.trial  held by the process that runs it, trial.log what it printed, outcome.json how it ended

The truth about a trial is its run directory and who holds it, never a handle that a driver has: a driver may die at any
instant, and the next one adopts what runs.
"""
