"""Checkpoints: the newest few and the best, written by Orbax while training goes on, and checked when they are read.

checkpoints/400/             whole: it gets this name when all of it, checksums included, is on the disk
    model/                   `params`, `batch_stats`, `ema_params`: all that evaluation and prediction need
    training/                the rest of the state
    checkpoint.json          validation scores and what else the training loop wants to find again
    SHA256SUMS               of every file
checkpoints/500.incomplete   is being written, or was when the process died
checkpoints/300.damaged      was found to differ from its checksums, and set aside

Of several processes each writes, and reads, its own part of the arrays; names, record and checksums are the main one's.
"""

import contextlib
import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cnnjax import processes
from cnnjax.errors import RunError, UserError
from cnnjax.run_directory import checksums, said

FOLDER, RECORD = "checkpoints", "checkpoint.json"
INCOMPLETE, DAMAGED = ".incomplete", ".damaged"


def exist(workdir: Path) -> bool:
    """Whether a run directory holds, or held, a checkpoint."""
    folder = Path(workdir) / FOLDER
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return any(name.removesuffix(DAMAGED).isdigit() for name in names)


class Checkpoints:
    """The checkpoints of one run directory. Use as a context manager: leaving waits for the last save.

    Args:
      keep: how many of the newest stay, besides the best.
      best_metric: the validation score that the best one has; `higher_is_better` says which of two is.
      read_only: nothing is written, set aside or cleaned up.
      log: prints a line; it may be called later than a save that failed.
    """

    def __init__(self, workdir: Path, *, keep: int = 2, best_metric: str = "accuracy",
                 higher_is_better: bool = True, read_only: bool = False, log: Callable[[str], None] = print):  # fmt: skip
        said.quiet()
        self.folder = (Path(workdir) / FOLDER).absolute()
        self._keep, self._read_only, self._log = keep, read_only, log
        self._metric, self._higher_is_better = best_metric, higher_is_better
        self._records: dict[int, dict] = {}
        self._passed_over: set[int] = set()  # damaged, where nothing may be set aside
        self._under_way: tuple[int, Future] | None = None
        self.lost: int | None = None  # the step of the last save, where that failed
        self.failures = 0  # of all saves
        # Compressed, floats have 8 % fewer bytes, and cost seven times the processor's time.
        handlers = {name: ocp.PyTreeCheckpointHandler(use_compression=False) for name in ("model", "training")}
        self._writer = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler(**handlers))
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        if not read_only:
            self._adopt_or_remove()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if exception[0] and processes.count() > 1:
            return  # what is under way may wait for a process that has died
        if self._under_way:
            self._under_way[1].exception()
        self._thread.shutdown()
        self._writer.close()
        if not self._read_only:
            self._adopt_or_remove()

    def _adopt_or_remove(self) -> None:
        """What a process left behind in the middle of a save: whole but for its name, or half written."""
        if not processes.is_main():
            return
        for path in self.folder.glob(f"*{INCOMPLETE}*"):
            whole = self.folder / path.name.split(".")[0]
            if whole.name.isdigit() and not whole.exists() and checksums.damage(path) is None:
                path.rename(whole)
            else:
                shutil.rmtree(path, ignore_errors=True)

    # --- Which there are ----------------------------------------------------------------------------------------------

    def steps(self) -> list[int]:
        """The steps of all checkpoints, in order."""
        names = [path.name for path in self.folder.iterdir()] if self.folder.is_dir() else []
        return sorted({int(name) for name in names if name.isdigit()} - self._passed_over)

    def newest(self) -> int | None:
        """The step of the newest checkpoint."""
        return max(self.steps(), default=None)

    def best(self) -> int | None:
        """The step with the best validation score; of equal ones the newest. None where no checkpoint has a score."""
        scored = [(self._rank(step), step) for step in self.steps()]
        return max([entry for entry in scored if np.isfinite(entry[0])], default=(None, None))[1]

    def best_score(self) -> float | None:
        """The best validation score that a checkpoint has."""
        step = self.best()
        return None if step is None else self.record(step)["scores"][self._metric]

    def _rank(self, step: int) -> float:
        score = (self.record(step).get("scores") or {}).get(self._metric, float("nan"))
        return score if self._higher_is_better else -score

    def record(self, step: int) -> dict[str, Any]:
        """What `save` was given as `record`; {} where it cannot be read."""
        if step not in self._records:
            try:
                record = json.loads((self.folder / str(step) / RECORD).read_text())
            except (OSError, ValueError):
                return {}
            if not isinstance(record, dict):
                return {}
            self._records[step] = record
        return self._records[step]

    def chosen(self, which: str) -> int | None:
        """The step of the 'best' checkpoint, or of the 'last', which is also taken where none has a score; None: no checkpoint.

        It was held against its checksums. A damaged one is reported and set aside (with read_only: passed over), and the
        next one taken.

        Raises:
          RunError: every checkpoint is damaged (with read_only a UserError).
        """
        while True:
            best = self.best() if which == "best" else None
            step = self.newest() if best is None else best
            if step is None:
                if exist(self.folder.parent):
                    failure = UserError if self._read_only else RunError
                    raise failure(
                        f"Every checkpoint in {self.folder} is damaged: put back a good one from a copy, "
                        "or begin anew in another --workdir."
                    )
                return None
            damage = checksums.damage(self.folder / str(step))
            if damage is None:
                return step
            if not (self.folder / str(step)).exists():  # its run has just let go of it for a newer one
                continue
            if self._read_only:
                self._log(f"The checkpoint of step {step} is damaged: {damage}. It is passed over.")
                self._passed_over.add(step)
                continue
            self._log(f"The checkpoint of step {step} is damaged: {damage}. It is set aside as {step}{DAMAGED}.")
            self._records.pop(step, None)
            aside = self.folder / f"{step}{DAMAGED}"
            shutil.rmtree(aside, ignore_errors=True)
            (self.folder / str(step)).rename(aside)

    # --- Writing ------------------------------------------------------------------------------------------------------

    def save(self, step: int, model: Any, training: Any, record: dict[str, Any]) -> None:
        """Starts to write; the arrays are copied before this returns. What fails is logged, here or later.

        Raises:
          RunError: it failed, in one of several processes: the others wait for it.
        """
        self.poll(wait=True)
        self.lost = None
        temporary = self.folder / f"{step}{INCOMPLETE}"
        try:
            self._adopt_or_remove()
            self.folder.mkdir(parents=True, exist_ok=True)
            items = ocp.args.Composite(model=ocp.args.PyTreeSave(model), training=ocp.args.PyTreeSave(training))
            self._writer.save(temporary, args=items)
        except Exception as error:  # of many libraries; none of them may end a run
            self._failed(step, error)
            return
        self._under_way = step, self._thread.submit(self._complete, step, temporary, record)

    def _complete(self, step: int, temporary: Path, record: dict[str, Any]) -> None:
        """In a thread: when Orbax is done, adds record and checksums, gives the folder its name, and deletes old ones."""
        self._writer.wait_until_finished()
        if not processes.is_main():
            return
        (temporary / RECORD).write_text(json.dumps(record, indent=2) + "\n")
        checksums.write(temporary)
        target = self.folder / str(step)
        before = self.folder / f"{step}.before{INCOMPLETE}"
        if target.exists():  # a run that goes on may save where it started, once it has evaluated there
            target.rename(before)
        temporary.rename(target)
        self._records[step] = record
        with contextlib.suppress(OSError):  # this save is done, whatever becomes of the old ones
            shutil.rmtree(before, ignore_errors=True)
            for old in set(self.steps()[: -self._keep]) - {self.best()}:
                # Renamed first: what is half deleted must not look whole.
                gone = self.folder / f"{old}{INCOMPLETE}"
                (self.folder / str(old)).rename(gone)
                shutil.rmtree(gone, ignore_errors=True)

    def poll(self, wait: bool = False) -> None:
        """Reports a save that has failed since, and sets `lost`; with `wait` when the one under way has come to its end."""
        if self._under_way and (wait or self._under_way[1].done()):
            (step, future), self._under_way = self._under_way, None
            error = future.exception()
            if error is not None:
                self._failed(step, error)

    def _failed(self, step: int, error: BaseException) -> None:
        if processes.count() > 1:
            raise RunError(f"The checkpoint of step {step} could not be written: {said.reason(error)}.") from error
        self.lost, self.failures = step, self.failures + 1
        # What is half written would only fill the disk further.
        for path in self.folder.glob(f"{step}{INCOMPLETE}*"):
            shutil.rmtree(path, ignore_errors=True)
        self._log(f"The checkpoint of step {step} could not be written: {said.reason(error)}. Training goes on.")

    # --- Reading ------------------------------------------------------------------------------------------------------

    def restore(self, step: int, model: Any, training: Any) -> tuple[Any, Any]:
        """The state of a step, with the shapes, types and shardings of the given trees of arrays.

        Raises:
          UserError: it is of another architecture, naming the first arrays that differ.
        """
        restored = self._restore(step, model=model, training=training)
        return restored.model, restored.training

    def restore_model(self, step: int, like: Any | None = None) -> dict[str, Any]:
        """The model of a step; without `like` as nested dicts of NumPy arrays, as saved."""
        return self._restore(step, model=self._as_saved(step, "model") if like is None else like).model

    def restore_everything(self, step: int) -> dict[str, Any]:
        """Both items of a step as nested dicts and lists of NumPy arrays, as saved."""
        like = {name: self._as_saved(step, name) for name in ("model", "training")}
        return dict(self._restore(step, **like).items())

    def _as_saved(self, step: int, item: str) -> Any:
        return jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), self._saved(step, item))

    def _saved(self, step: int, item: str) -> Any:
        """Shapes and types of an item, as a tree."""
        try:
            with ocp.StandardCheckpointer() as reader:
                return reader.metadata(self.folder / str(step) / item).item_metadata.tree
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise UserError(
                f"The checkpoint {self.folder / str(step)} cannot be read: {said.reason(error)}."
            ) from error

    def _restore(self, step: int, **items: Any):
        for name, like in items.items():
            said.require_same_arrays(self.folder / str(step), self._saved(step, name), like)
        args = {name: ocp.args.StandardRestore(item) for name, item in items.items()}
        try:
            with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
                return reader.restore(self.folder / str(step), args=ocp.args.Composite(**args))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"The checkpoint {self.folder / str(step)} cannot be restored: {said.reason(error)}."
            ) from error
