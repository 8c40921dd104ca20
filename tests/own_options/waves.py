"""What `experiment.py` beside this imports: waves of any number of axes."""

import numpy as np


def wave(frequency: float, sides: tuple[int, ...]) -> np.ndarray:
    """`[*sides, 1]` uint8: a sine along the first axis, the same along all others."""
    position = np.arange(sides[0]) / sides[0]
    values = 127.5 * (1 + np.sin(2 * np.pi * frequency * position))
    shape = (sides[0], *(1 for _ in sides[1:]), 1)
    return np.broadcast_to(values.reshape(shape), (*sides, 1)).astype(np.uint8)
