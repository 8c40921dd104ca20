"""Checkpoints by Orbax: the newest few and the best, written while training goes on.

A checkpoint has three items: `model` (`params`, `batch_stats`, `ema_params`), all that evaluation, prediction and
fine-tuning need; `training`, the rest of the state; and the validation scores.
"""

import logging
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from cnnjax.errors import RunError, UserError

FOLDER = "checkpoints"
NO_SCORE = {"loss": float("nan"), "accuracy": float("nan")}


def _quiet() -> None:
    # Orbax reports every save in ten lines; what a person needs to know, our own log says.
    absl_logging.set_verbosity(absl_logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)


def exist(workdir: Path) -> bool:
    """Whether a run directory holds a checkpoint."""
    folder = Path(workdir) / FOLDER
    return folder.is_dir() and any(path.name.isdigit() for path in folder.iterdir())


class Checkpoints:
    """The checkpoints of one run directory. Use as a context manager: leaving waits for the last save."""

    def __init__(self, workdir: Path, *, keep: int = 2, best_metric: str = "accuracy", read_only: bool = False):
        _quiet()
        self.folder = (Path(workdir) / FOLDER).absolute()
        self._sign = -1.0 if best_metric == "loss" else 1.0
        self._metric = best_metric
        best = policies.BestN(get_metric_fn=self._rank, n=1, keep_checkpoints_without_metrics=False)
        options = ocp.CheckpointManagerOptions(
            create=not read_only,
            read_only=read_only,
            best_fn=self._rank,  # without it Orbax does not write the scores down
            preservation_policy=policies.AnyPreservationPolicy([policies.LatestN(keep), best]),
            cleanup_tmp_directories=not read_only,
        )
        handlers = dict(model=ocp.StandardCheckpointHandler(), training=ocp.StandardCheckpointHandler())
        try:
            self._manager = ocp.CheckpointManager(self.folder, options=options, item_handlers=handlers)
            self._scores = {step: self._manager.metrics(step) or dict(NO_SCORE) for step in self._manager.all_steps()}
        except (ValueError, FileNotFoundError) as error:
            raise UserError(f"The checkpoints in {self.folder} are damaged: {error}.") from error

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._manager.close()

    def _rank(self, scores: dict[str, float]) -> float:
        value = scores.get(self._metric, float("nan"))
        return self._sign * value if np.isfinite(value) else -float("inf")

    def newest(self) -> int | None:
        """The step of the newest checkpoint."""
        return self._manager.latest_step()

    def best(self) -> int | None:
        """The step with the best validation score; of equal ones the newest. None where no checkpoint has a score."""
        scored = [(self._rank(self._scores.get(step, {})), step) for step in self._manager.all_steps()]
        scored = [entry for entry in scored if np.isfinite(entry[0])]
        return max(scored)[1] if scored else None

    def best_score(self) -> float | None:
        """The best validation score that a checkpoint has."""
        step = self.best()
        return None if step is None else self.scores(step)[self._metric]

    def scores(self, step: int) -> dict[str, float]:
        """The validation scores that were saved with a step; NaN where it had none."""
        return self._scores[step]

    def chosen(self, which: str) -> int:
        """The step of the 'best' checkpoint, or of the 'last', which is also taken where none has a score.

        Raises:
          UserError: there is no checkpoint.
        """
        best = self.best() if which == "best" else None
        step = self.newest() if best is None else best
        if step is None:
            raise UserError(f"{self.folder.parent} has no checkpoint yet: let `python run.py train` go on in it.")
        return step

    def save(self, step: int, model: Any, training: Any, scores: dict[str, float] | None) -> None:
        """Starts to write; the arrays are copied before this returns."""
        self._scores[step] = scores or dict(NO_SCORE)
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(model=ocp.args.StandardSave(model), training=ocp.args.StandardSave(training)),
                metrics=self._scores[step],
                force=True,
            )
        except (OSError, ValueError) as error:
            raise RunError(f"The checkpoint of step {step} cannot be written to {self.folder}: {error}.") from error

    def wait(self) -> None:
        """Returns when every save is on the disk. Raises RunError where one failed."""
        try:
            self._manager.wait_until_finished()
        except (OSError, ValueError) as error:
            raise RunError(f"A checkpoint cannot be written to {self.folder}: {error}.") from error

    def restore(self, step: int, model: Any, training: Any) -> tuple[Any, Any]:
        """The state of a step, with the shapes, types and shardings of the given trees of arrays."""
        restored = self._restore(step, model=model, training=training)
        return restored.model, restored.training

    def restore_model(self, step: int, like: Any | None = None) -> dict[str, Any]:
        """The model of a step; without `like` as nested dicts of NumPy arrays, as saved."""
        if like is None:
            with ocp.StandardCheckpointer() as checkpointer:
                saved = checkpointer.metadata(self.folder / str(step) / "model")
            tree = getattr(saved, "item_metadata", saved)
            tree = getattr(tree, "tree", tree)
            like = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), tree)
        return self._restore(step, model=like).model

    def _restore(self, step: int, **items: Any):
        args = {name: ocp.args.StandardRestore(item) for name, item in items.items()}
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**args))
        except (OSError, ValueError, KeyError, TypeError) as error:
            reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
            raise UserError(f"The checkpoint {self.folder / str(step)} cannot be restored: {reason}") from error
