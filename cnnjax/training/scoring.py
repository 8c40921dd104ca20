"""The end of a run: the test split is scored once, and summary and pictures are written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cnnjax import experiment, parallel, processes
from cnnjax.evaluation import eval_step_of, evaluate_in_full, evaluated_variables
from cnnjax.experiment import Experiment
from cnnjax.run_directory import records
from cnnjax.run_directory.checkpoint import Checkpoints
from cnnjax.training.logbook import read_entries
from cnnjax.training.state import TrainState


def score_test(
    exp: Experiment,
    state: TrainState,
    checkpoints: Checkpoints,
    log: Callable[[str], None],
    check: Callable[[], None],
) -> tuple[dict[str, Any], dict]:
    """(summary, figures) of the test split with the best or last parameters; `check()` may raise between batches."""
    which = exp.config.checkpoint.test if exp.validation is not None else "last"
    step = processes.by_main(lambda: checkpoints.chosen(which))
    model = state.model_variables()
    if step != int(state.step):
        model = checkpoints.restore_model(step, like=model)
    if exp.test is None:
        return dict(tested_step=None), {}
    task, names = exp.network.task, exp.record.class_names
    eval_step = parallel.compile_eval_step(exp.layout, eval_step_of(exp.network, exp.config.matmul_precision))
    batch_size = experiment.eval_batch_size(exp.config)
    sums, examples = evaluate_in_full(
        eval_step, evaluated_variables(model), exp.test, exp.layout, batch_size, task, check=check
    )
    summary = task.summary(sums, names) | dict(tested_step=step)
    log(f"\nTest, with the parameters of step {step} ({which}):")
    for line in task.summary_lines(summary):
        log("  " + line)
    return summary, task.figures(sums, examples, names) if processes.is_main() else {}


def write_summary(
    workdir: Path, summary: dict[str, Any], figures: dict, shown: tuple[str, ...], log: Callable[[str], None]
) -> None:
    """Writes the pictures, and last the summary: a directory that has one is complete."""
    from cnnjax.training import report  # which loads slowly

    curves = report.learning_curves(read_entries(workdir), shown)
    files = report.save_figures(workdir, dict(learning_curves=curves) | figures)
    records.write_json(workdir / "summary.json", summary)
    log(f"Pictures: {', '.join(files)}")
