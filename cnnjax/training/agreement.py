"""What one process of a run asks for, and all do at the same step: to stop where a signal came, to save when it is time."""

import collections
import signal

import jax
import numpy as np

from cnnjax import parallel, processes
from cnnjax.errors import Interrupted
from cnnjax.training.interruption import Interruption

AHEAD = 1  # wishes are read when those of the next step are on their way: nobody waits for the devices


class Agreement:
    """The wishes of all processes of a run, as each of them knows them at the same step.

    `look(due)` at each step sends what this process wants, and takes over what all wanted at the step before: `by`, the
    signal that asks to stop (None: none), and `due`, whether the main process finds it time to save. All processes call it
    equally often. A process that is alone has its own wishes at once.
    """

    def __init__(self, layout: parallel.Layout, asked: Interruption):
        self._asked, self._under_way = asked, collections.deque()
        self._greatest = parallel.greatest(layout) if processes.count() > 1 else None
        self.by: str | None = None
        self.due = False

    def look(self, due: bool = False) -> None:
        if self._greatest is None:
            self.by, self.due = self._asked.by, due
            return
        number = signal.Signals[self._asked.by] if self._asked.by else 0
        self._under_way.append(self._greatest(np.int32([number, due and processes.is_main()])))
        if len(self._under_way) > AHEAD:
            number, due = jax.device_get(self._under_way.popleft()).tolist()
            self.by, self.due = signal.Signals(number).name if number else None, bool(due)

    def check(self) -> None:
        """Looks, within an evaluation. Raises Interrupted where the run was asked to stop."""
        self.look()
        if self.by:
            raise Interrupted(f"stopped by {self.by}.")

    def forget_due(self) -> None:
        """It was saved: what is still under way asks for no other save. A signal is sent anew at each step."""
        self._under_way.clear()
        self.due = False

    def is_asked_here(self) -> bool:
        """Whether this process is alone and was asked to stop."""
        return self._greatest is None and bool(self._asked.by)
