"""The table as a picture: scores with their intervals, a line a variant, or against a factor or a column."""

import itertools
import math
from typing import Any

from cnnjax.sweeps.ablation import Sweep


def draw(sweep: Sweep, lines: list[dict[str, Any]]):
    """A matplotlib figure. `sweep.against`: empty, a factor, a column, or the first word of several ('shift' of 'shift 0', ...)."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"text.parse_math": False}):
        figure = Figure(
            figsize=(7.5, max(2.4, 0.34 * len(lines) + 1.2) if not sweep.against else 4.2),
            dpi=120,
            layout="constrained",
        )
        axes = figure.subplots()
        known = [line for line in lines if line["score"].count]
        if not sweep.against:
            _dots(axes, sweep, known)
        elif sweep.against in sweep.factors:
            _by_factor(axes, sweep, known)
        elif any(sweep.against == column for line in known for column in line):
            _by_column(axes, sweep, known)
        else:
            _by_family(axes, sweep, known)
        axes.grid(alpha=0.3)
    return figure


def _half(estimate) -> float:
    """Half of the 95 % interval; 0 of a single seed."""
    return 0.0 if math.isnan(estimate.low) else estimate.high - estimate.mean


def _dots(axes, sweep: Sweep, lines) -> None:
    names = [line["variant"].name for line in lines]
    means, halves = [line["score"].mean for line in lines], [_half(line["score"]) for line in lines]
    axes.errorbar(means, range(len(lines)), xerr=halves, fmt="o", capsize=3)
    axes.set_yticks(range(len(lines)), names)
    axes.invert_yaxis()
    axes.set_xlabel(f"{sweep.score} (test; mean and 95 % interval over seeds)")


def _by_factor(axes, sweep: Sweep, lines) -> None:
    """A curve for each combination of the other factors."""
    labels = list(sweep.factors[sweep.against])
    groups: dict[str, list] = {}
    for line in lines:
        others = {f: label for f, label in line["variant"].levels.items() if f != sweep.against}
        groups.setdefault(", ".join(others.values()) or sweep.score, []).append(line)
    for name, members in groups.items():
        members.sort(key=lambda line: labels.index(line["variant"].levels[sweep.against]))
        places = [labels.index(line["variant"].levels[sweep.against]) for line in members]
        axes.errorbar(
            places,
            [line["score"].mean for line in members],
            yerr=[_half(line["score"]) for line in members],
            marker="o",
            capsize=3,
            label=name,
        )
    axes.set_xticks(range(len(labels)), labels)
    axes.set_xlabel(sweep.against)
    axes.set_ylabel(f"{sweep.score} (test)")
    axes.legend(fontsize="small")


def _by_column(axes, sweep: Sweep, lines) -> None:
    """A dot a variant; dots may lie upon each other, so their names stand beside the picture."""
    lines = [line for line in lines if line.get(sweep.against) is not None]
    for line, marker in zip(lines, itertools.cycle("os^vDP*Xph<>")):
        place = [line[sweep.against]], [line["score"].mean]
        axes.errorbar(*place, yerr=[_half(line["score"])], fmt=marker, capsize=3, label=line["variant"].name)
    axes.figure.legend(loc="outside right upper", fontsize="x-small")
    axes.set_xlabel(sweep.against.replace("_", " "))
    axes.set_ylabel(f"{sweep.score} (test)")


def _by_family(axes, sweep: Sweep, lines) -> None:
    """A curve a variant over the columns 'NAME 0', 'NAME 1', ..."""
    for line in lines:
        points = [
            (float(column.removeprefix(sweep.against)), value)
            for column, value in line.items()
            if column.startswith(f"{sweep.against} ") and value is not None
        ]
        if points:
            axes.plot(*zip(*sorted(points)), marker="o", label=line["variant"].name)
    axes.set_xlabel(sweep.against)
    axes.set_ylabel(f"{sweep.score} (test)")
    axes.legend(fontsize="small")
