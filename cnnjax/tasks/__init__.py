"""What networks are trained to do.

A task is a module of pure functions, or an object with such methods, that the training loop calls by these names:

- `loss(logits, batch, label_smoothing) -> [B]`, one value an example, traced;
- `metrics(logits, batch, detailed) -> dict of sums`, traced, `count` (of weights) among them; sums add up over batches, devices and processes;
- `scores(sums) -> dict of floats`, on the host: the means that the sums stand for;
- `predictions(logits) -> array`, traced: what a person wants to know of each example;
- `shown`, the names of the scores that are shown while a run goes;
- `look(outputs) -> (further sums, examples)`, on the host: what only single examples show, from each batch's number of its
  first example, the batch, and the predictions;
- `summary(sums, class_names) -> dict` and `summary_lines(summary) -> list of lines`: the final report;
- `figures(sums, examples, class_names) -> dict of name to matplotlib Figure`.
"""
