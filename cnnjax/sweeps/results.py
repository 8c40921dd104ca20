"""From finished trials to a table that can be believed: mean, spread and interval over seeds, paired differences to the base."""

import csv
import io
import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import scipy  # its parts load where they are first used

from cnnjax import experiment
from cnnjax.config import Config
from cnnjax.inspection.layer_table import layer_table
from cnnjax.run_directory import records
from cnnjax.sweeps.ablation import Sweep, Trial, Variant
from cnnjax.sweeps.status import DONE, finished, status_of
from cnnjax.training.logbook import read_entries

MEASURED = "measured.json"
NETWORK = ("parameters", "macs", "field_of_view")


class Estimate(NamedTuple):
    """Of several seeds. The 95 % interval is Student's, nan of a single one."""

    count: int
    mean: float
    deviation: float  # sample standard deviation
    low: float
    high: float


def estimate(values: Iterable[float]) -> Estimate:
    """Mean, sample standard deviation and the mean's 95 % interval (Student 1908: mean -+ t(n - 1) s / sqrt(n))."""
    values = np.asarray(list(values), np.float64)
    if len(values) < 2:
        return Estimate(len(values), float(values.mean()) if len(values) else math.nan, *[math.nan] * 3)
    mean, deviation = float(values.mean()), float(values.std(ddof=1))
    half = float(scipy.stats.t.ppf(0.975, len(values) - 1)) * deviation / math.sqrt(len(values))
    return Estimate(len(values), mean, deviation, mean - half, mean + half)


def paired(ours: dict[int, float], base: dict[int, float]) -> Estimate:
    """The difference of the scores {seed: score} to the base's, seed by seed: what both seeds share cancels."""
    return estimate(ours[seed] - base[seed] for seed in sorted(ours.keys() & base.keys()))


def rows(sweep: Sweep, trials: list[Trial]) -> list[dict[str, Any]]:
    """One dict a trial: its levels, state, score, what its run directory says of network and speed, and the error."""
    networks: dict[str, dict[str, Any]] = {}
    made = []
    for trial in trials:
        status, name = status_of(trial, sweep.score), trial.variant.name
        row = dict(variant=name, seed=trial.seed) | trial.variant.levels | dict(state=status.state)
        row[sweep.score] = status.score if status.state == DONE else None
        if status.state == DONE:
            if name not in networks:
                networks[name] = network_of(trial.config, trial.folder)
            summary = finished(trial) or {}
            row |= networks[name] | dict(images_per_second=speed_of(trial.folder))
            row |= dict(steps=summary.get("steps"), seconds=summary.get("seconds"))
            row |= measured(sweep, trial.folder)
        made.append(row | dict(reason=status.error))
    return made


def network_of(config: Config, folder: Path) -> dict[str, Any]:
    """Parameters, multiply-accumulates of an example, and the field of view (pixels, of the last layer with positions)."""
    network = experiment.build_network(config, records.read_dataset(folder))
    table = layer_table(network.model, jax.ShapeDtypeStruct((1, *network.input_shape), np.float32), train=False)
    views = [row.field_of_view for row in table.rows if row.field_of_view and len(row.shape) > 2]
    size = max((view.size for view in views[-1]), default=None) if views else None
    return dict(parameters=table.parameters, macs=table.macs, field_of_view=size)


def speed_of(folder: Path) -> float | None:
    """Images/s of training: the median of the log's entries."""
    entries = [e.get("images_per_second") for e in read_entries(folder) if e["split"] == "train"]
    known = [value for value in entries if isinstance(value, int | float)]
    return float(np.median(known)) if known else None


def measured(sweep: Sweep, folder: Path) -> dict[str, float]:
    """What the sweep measures of a finished run besides; computed once, and kept in its folder."""
    if sweep.measure is None:
        return {}
    path, stamp = folder / MEASURED, (folder / "summary.json").stat().st_mtime
    try:
        kept = json.loads(path.read_text())
        if kept["of"] == stamp:
            return kept["values"]
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = {name: float(value) for name, value in sweep.measure(folder).items()}
    records.write_json(path, dict(of=stamp, values=found))
    return found


def by_variant(sweep: Sweep, variants: list[Variant], found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One dict a variant: `score` and `difference` (Estimates), and the means of what else its trials have."""
    scores = {
        variant.name: {
            row["seed"]: row[sweep.score] for row in found if row["variant"] == variant.name and row["state"] == DONE
        }
        for variant in variants
    }
    scores = {name: {s: v for s, v in values.items() if v is not None} for name, values in scores.items()}
    base = next(variant.name for variant in variants if variant.is_base)
    made = []
    for variant in variants:
        own = [row for row in found if row["variant"] == variant.name]
        line = dict(variant=variant, trials=len(own), score=estimate(scores[variant.name].values()))
        line["difference"] = None if variant.is_base else paired(scores[variant.name], scores[base])
        for column in numeric_columns(sweep, found):
            known = [row[column] for row in own if isinstance(row.get(column), int | float)]
            line[column] = float(np.mean(known)) if known else None
        made.append(line)
    return made


def numeric_columns(sweep: Sweep, found: list[dict[str, Any]]) -> list[str]:
    """The columns of a table besides the score: of the network, the speed, and what the sweep measures."""
    known = [*NETWORK, "images_per_second"]
    first = {"variant", "seed", "state", "reason", "steps", "seconds", sweep.score, *sweep.factors, *known}
    return known + list(dict.fromkeys(name for row in found for name in row if name not in first))


def markdown(sweep: Sweep, lines: list[dict[str, Any]], found: list[dict[str, Any]]) -> str:
    """The table for a person, the hypothesis above it, what failed below it."""
    columns = numeric_columns(sweep, found)
    shown = dict(images_per_second="images/s", field_of_view="field of view", macs="MACs")
    header = ["variant", "seeds", sweep.score, "95 % interval", "difference to the base (95 %)"]
    header += [shown.get(column, column) for column in columns]
    text = [f"{sweep.hypothesis.strip()}", "", "| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for line in lines:
        score, difference = line["score"], line["difference"]
        cells = [line["variant"].name, f"{score.count} of {line['trials']}"]
        cells += [_with_spread(score), _interval(score)]
        cells += [
            "" if difference is None else f"{_number(difference.mean, sign=True)} {_interval(difference, True)}".strip()
        ]
        cells += ["" if line[column] is None else _plain(line[column]) for column in columns]
        text.append("| " + " | ".join(cells) + " |")
    unfinished = [row for row in found if row["state"] != DONE]
    text += [
        "",
        *(f"{row['variant']} seed {row['seed']}: {row['state']}. {row['reason']}".strip() for row in unfinished),
    ]
    return "\n".join(text).rstrip() + "\n"


def _number(value: float, sign: bool = False) -> str:
    return "" if math.isnan(value) else f"{value:{'+' if sign else ''}.4f}"


def _with_spread(value: Estimate) -> str:
    return _number(value.mean) + ("" if math.isnan(value.deviation) else f" ± {value.deviation:.4f}")


def _interval(value: Estimate, sign: bool = False) -> str:
    return "" if math.isnan(value.low) else f"({_number(value.low, sign)} to {_number(value.high, sign)})"


def _plain(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 or value == round(value) else f"{value:.4f}"


def as_csv(found: list[dict[str, Any]]) -> str:
    """All trials, one line each."""
    names = list(dict.fromkeys(name for row in found for name in row if name != "reason")) + ["reason"]
    out = io.StringIO()
    writer = csv.DictWriter(out, names, restval="", lineterminator="\n")
    writer.writeheader()
    for row in found:
        writer.writerow({k: "" if v is None else f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    return out.getvalue()
