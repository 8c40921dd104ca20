"""What a sweep is: a base experiment, factors, seeds and a hypothesis; and the trials that they make."""

import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cnnjax import launch, serialization
from cnnjax.config import Config
from cnnjax.errors import UserError

Levels = dict[str, dict[str, Any]]  # {label: {knob: value}}; the first is the base's
BASE = "base"


def values(knob: str, *levels: Any) -> Levels:
    """The levels of a factor that is one knob."""
    return {_text(level): {knob: level} for level in levels}


class Sweep(NamedTuple):
    """What `get_sweep()` of a file in experiments/ablations returns."""

    base: str  # an experiment file, as --config takes it
    hypothesis: str
    factors: dict[str, Levels]
    seeds: tuple[int, ...] = (0, 1, 2)
    common: dict[str, Any] = {}  # knobs that differ from the base experiment in every trial
    grid: bool = False  # every combination; else the base, and each other level by itself
    score: str = "accuracy"  # in summary.json: accuracy, mean_iou, objects.f1, ...
    measure: Callable[[Path], dict[str, float]] | None = None  # of a finished run directory: further columns
    against: str = ""  # what the picture has on its x axis: a factor, or a column of the table


class Variant(NamedTuple):
    """One line of the table."""

    name: str
    levels: dict[str, str]  # factor -> label
    knobs: dict[str, Any]
    is_base: bool


class Trial(NamedTuple):
    """One run of a sweep."""

    variant: Variant
    seed: int
    folder: Path  # its run directory
    arguments: tuple[str, ...]  # after `run.py train`, but for --workdir
    config: Config

    @property
    def name(self) -> str:
        return f"{self.variant.name} seed {self.seed}"


def load(path: str) -> Sweep:
    """The sweep of a file. Raises UserError: the file is missing, fails, or defines none."""
    sweep = launch.call_in_file(Path(path), "get_sweep")
    if not isinstance(sweep, Sweep):
        raise UserError(f"get_sweep() of {path} must return a cnnjax.sweeps.ablation.Sweep, not {sweep!r}.")
    return sweep


def variants(sweep: Sweep) -> list[Variant]:
    """The lines of the table, the base first.

    Raises:
      UserError: no factor, one with fewer than two levels, or two that set the same knob.
    """
    if not sweep.factors:
        raise UserError("The sweep has no factors: say factors=dict(NAME=values(KNOB, ...)).")
    owner: dict[str, str] = dict.fromkeys(sweep.common, "common")
    for factor, levels in sweep.factors.items():
        if not isinstance(levels, dict) or not all(isinstance(knobs, dict) for knobs in levels.values()):
            raise UserError(f"Factor {factor!r} must be values(KNOB, ...) or {{label: {{knob: value}}}}.")
        if len(levels) < 2:
            raise UserError(f"Factor {factor!r} has {len(levels)} level: give it at least two, the base's first.")
        for knob in {knob for knobs in levels.values() for knob in knobs}:
            if knob == "seed":
                raise UserError(f"Factor {factor!r} sets config.seed: say seeds=(...) instead.")
            if knob in owner and owner[knob] != factor:
                raise UserError(f"Factors {owner[knob]!r} and {factor!r} both set config.{knob}.")
            owner[knob] = factor
    first = {factor: next(iter(levels)) for factor, levels in sweep.factors.items()}
    if sweep.grid:
        chosen = [dict(zip(sweep.factors, labels)) for labels in itertools.product(*sweep.factors.values())]
    else:
        chosen = [first] + [
            first | {factor: label} for factor, levels in sweep.factors.items() for label in list(levels)[1:]
        ]
    made = []
    for labels in chosen:
        named = labels if sweep.grid else {f: label for f, label in labels.items() if label != first[f]}
        name = ", ".join(f"{factor}={label}" for factor, label in named.items()) or BASE
        knobs = {k: v for factor, label in labels.items() for k, v in sweep.factors[factor][label].items()}
        made.append(Variant(name, labels, dict(sweep.common) | knobs, labels == first))
    return made


def trials(sweep: Sweep, folder: Path) -> list[Trial]:
    """All runs of a sweep, seed by seed, so that every variant has a result early. All are checked.

    Raises:
      UserError: what `variants` refuses; no seeds or one twice; a knob that does not exist, or of a wrong type or range.
    """
    lines = variants(sweep)
    seeds = sweep.seeds
    if not seeds or len(set(seeds)) < len(seeds) or not all(type(seed) is int for seed in seeds):
        raise UserError(
            f"A sweep needs seeds, whole numbers of which none stands twice: seeds=(0, 1, 2), not {seeds!r}."
        )
    slugs = [_slug(variant.name) for variant in lines]
    if len(set(map(str.lower, slugs))) < len(slugs):
        raise UserError(f"Two variants would share a folder: {sorted(slugs)}. Give their levels other labels.")
    made = []
    for seed in seeds:
        for variant, slug in zip(lines, slugs):
            knobs = variant.knobs | dict(seed=seed)
            arguments = (f"--config={sweep.base}", *(f"--config.{name}={_text(v)}" for name, v in knobs.items()))
            try:
                config = launch.parse(list(arguments), ()).config
            except UserError as error:
                raise UserError(f"{variant.name}: {error}") from None
            made.append(Trial(variant, seed, folder / slug / f"seed{seed}", arguments, config))
    return made


def to_json(sweep: Sweep, all_trials: list[Trial]) -> dict[str, Any]:
    """What sweep.json holds."""
    runs = {f"{t.folder.parent.name}/{t.folder.name}": serialization.to_json(t.config) for t in all_trials}
    return dict(base=sweep.base, hypothesis=sweep.hypothesis, score=sweep.score, trials=runs)


def _text(value: Any) -> str:
    """A knob's value as a flag has it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9.=_+-]+", "_", name).strip("._") or "_"
