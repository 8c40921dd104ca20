"""What each primitive of JAX does to the field of view: `RULES[name](equation, inputs, cut_gates) -> outputs`.

A rule is only asked when some input sees the image. Primitives that are not here are named to the user, never guessed.
"""

from cnnjax.inspection.rules import shapes, sums
from cnnjax.inspection.rules.table import RULES
