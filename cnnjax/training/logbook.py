"""What a run writes and shows while it goes: metrics.jsonl, TensorBoard events, a progress bar or plain lines."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from tqdm import tqdm

from cnnjax.errors import RunError
from cnnjax.training.events import EventFile, append

PLAIN_LINE_SECONDS = 5.0  # without a terminal, lines about training come no more often than this
METRICS = "metrics.jsonl"


def read_entries(workdir: Path) -> list[dict]:
    """The entries of metrics.jsonl in order, without lines that were cut off or are none of ours."""
    entries = []
    path = Path(workdir) / METRICS
    for line in path.read_text(errors="replace").splitlines() if path.exists() else []:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and isinstance(entry.get("step"), int) and "split" in entry and "epoch" in entry:
            entries.append(entry)
    return entries


class _Sink:
    """A file that gets every entry, if need be later: what the disk does not take waits in memory."""

    def __init__(self, name: str, write: Callable[[list[dict]], None], say: Callable[[str], None]):
        self._name, self._write, self._say = name, write, say
        self.waiting: list[dict] = []

    def add(self, entry: dict) -> None:
        failed_before = bool(self.waiting)
        self.waiting.append(entry)
        try:
            self._write(self.waiting)
        except OSError as error:
            if not failed_before:
                reason = error.strerror or error
                self._say(f"{self._name} cannot be written: {reason}. Entries wait in memory; training goes on.")
            return
        self.waiting = []
        if failed_before:
            self._say(f"{self._name} is written again; nothing is missing.")


class Logbook:
    """The log of one run. Use as a context manager.

    Args:
      workdir: the run directory.
      start: the step that the run goes on from; later entries of an earlier attempt are cut off.
      total_steps, steps_per_epoch, batch_size: to tell epochs, rates and the time left.
      task: its `scores` makes means of sums, of which those named in its `shown` are shown.
      log: prints a line.
      carried: what `carried()` gave when the step was saved that the run goes on from.
      evaluated: whether the evaluation at that step was made before it was saved.
      writes: whether this process is the one of a run that writes.

    Where the disk takes nothing, entries wait in memory, and are written with the first that it takes.
    """

    def __init__(self, workdir: Path, *, start: int, total_steps: int, steps_per_epoch: float, batch_size: int,
                 task, log: Callable[[str], None] = print, carried: dict | None = None, evaluated: bool = True,
                 writes: bool = True):  # fmt: skip
        last = start if evaluated else start - 1  # of evaluations: one that is still to be made is not logged twice
        kept = [e for e in read_entries(workdir) if e["step"] <= (start if e["split"] == "train" else last)]
        self._epochs = lambda step: step / steps_per_epoch
        self._total_steps, self._batch_size, self._task, self._log = total_steps, batch_size, task, log
        self._path = Path(workdir) / METRICS
        self._sinks = self._opened(kept, start) if writes else ()
        times = [entry.get("time") for entry in kept]
        self._newest_time = max((t for t in times if isinstance(t, int | float)), default=0)
        self._bar = tqdm(total=total_steps, initial=start, unit="step", leave=False,
                         disable=not (writes and sys.stderr.isatty()))  # fmt: skip
        sums = (carried or {}).get("sums", {})
        self._sums = {name: np.asarray(value, np.float64)[()] for name, value in sums.items()}
        self._steps = 0
        self._clock = self._started = self._spoken = time.monotonic()
        self._first_step = start

    def _opened(self, kept: list[dict], start: int) -> tuple[_Sink, ...]:
        """The files that take entries, cut back to what is kept."""
        try:
            self._replace("".join(json.dumps(entry) + "\n" for entry in kept))
        except OSError as error:
            raise RunError(f"{self._path} cannot be written: {error.strerror}.") from None
        lines = lambda entries: append(self._path, "".join(json.dumps(entry) + "\n" for entry in entries).encode())
        events = EventFile(self._path.parent, start)
        return _Sink(str(self._path), lines, self.say), _Sink("TensorBoard's file", events.write, self.say)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._bar.close()

    def say(self, line: str) -> None:
        """Prints a line, above the progress bar where there is one."""
        self._bar.clear()
        self._log(line)

    def carried(self) -> dict:
        """What the next entry needs of the steps since the last one, for a checkpoint."""
        return dict(sums={name: np.asarray(value).tolist() for name, value in self._sums.items()})

    def _replace(self, text: str) -> None:
        temporary = self._path.with_name(f".{METRICS}")
        temporary.write_text(text)
        temporary.replace(self._path)

    def compiled(self, step: int) -> None:
        """Leaves the first step, which was compiled, out of images/s and of the time left."""
        self._started, self._first_step = time.monotonic(), step
        self.restart_clock()

    def restart_clock(self) -> None:
        """Leaves the time since the last entry out of images/s: compilation, evaluation."""
        self._clock = time.monotonic()
        self._steps = 0

    def add(self, sums: dict[str, np.ndarray | float]) -> None:
        """Takes in the metrics of one more step."""
        for name, value in sums.items():
            last = name in ("learning_rate", "grad_norm", "param_norm")
            self._sums[name] = value if last else self._sums.get(name, 0.0) + value
        self._steps += 1
        self._bar.update()

    def train(self, step: int) -> None:
        """Writes an entry of all steps since the last one."""
        if not self._sums:
            return
        seconds = time.monotonic() - self._clock
        scores = self._task.scores(self._sums)
        scores |= {name: float(self._sums[name]) for name in ("learning_rate", "grad_norm", "param_norm")}
        if self._steps and seconds > 0:
            scores["images_per_second"] = self._steps * self._batch_size / seconds
        self._sums = {}
        self.restart_clock()
        self._entry("train", step, scores)
        shown = self._shown(scores)
        rate = f"{scores['images_per_second']:,.0f} images/s" if "images_per_second" in scores else ""
        if not self._bar.disable:
            self._bar.set_description_str(f"epoch {self._epochs(step):.1f}", refresh=False)
            self._bar.set_postfix_str(f"{shown}  {rate}")
        elif time.monotonic() - self._spoken >= PLAIN_LINE_SECONDS or step == self._total_steps:
            self._spoken = time.monotonic()
            left = (self._spoken - self._started) / max(step - self._first_step, 1) * (self._total_steps - step)
            self._log(f"epoch {self._epochs(step):6.2f}  step {step:6d}  {shown}  {rate}  {duration(left)} left")

    def evaluation(self, split: str, step: int, scores: dict[str, float], note: str = "") -> None:
        """Writes and shows the scores of a split."""
        self._entry(split, step, scores)
        self.say(f"epoch {self._epochs(step):6.2f}  step {step:6d}  {split}: {self._shown(scores)}{note}")
        self._spoken = time.monotonic()
        self.restart_clock()

    def _shown(self, scores: dict[str, float]) -> str:
        return "  ".join(f"{name.replace('_', ' ')} {scores[name]:.4f}" for name in self._task.shown)

    def _entry(self, split: str, step: int, scores: dict[str, float]) -> None:
        now = round(time.time(), 3)
        if now < self._newest_time:
            behind = duration(self._newest_time - now)
            self.say(
                f"The clock went backwards: it is {behind} before the last entry of {METRICS}. Only its times suffer."
            )
        self._newest_time = now
        entry = dict(step=step, epoch=round(self._epochs(step), 4), split=split, **scores, time=now)
        for sink in self._sinks:
            sink.add(entry)

    def require_written(self) -> None:
        """Raises RunError where entries are still not on the disk."""
        lacking = len(self._sinks[0].waiting) if self._sinks else 0
        if lacking:
            raise RunError(f"{self._path} lacks its last {lacking} entries: the disk did not take them.")


def duration(seconds: float) -> str:
    """'42 s', '3 min 5 s', '2 h 10 min'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
