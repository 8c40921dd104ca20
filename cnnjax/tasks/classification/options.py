"""What an experiment may vary of classification."""

import dataclasses
from typing import ClassVar

from cnnjax.knobs import knob


@dataclasses.dataclass(slots=True)
class Options:
    """A class an example."""

    name: str = "classification"
    label_smoothing: float = knob(0.0, "part of the target spread evenly over all classes", low=0, below=1)

    target: ClassVar[str] = "label"
    written: ClassVar[tuple[str, ...]] = ()
    scores: ClassVar[dict[str, str]] = dict(accuracy="higher", loss="lower")

    def check(self, config) -> None:
        """All values go together."""

    def build(self):
        """The task: see `cnnjax/tasks/__init__.py`."""
        from cnnjax.tasks.classification.task import Task  # which loads JAX

        return Task(self)
