"""What saving costs a run: steps in half a minute that begins with a save, against half a minute without, in turn.

python experiments/measurements/saving.py --pairs=8 --table=experiments/results/saving.csv

Two networks with AdamW and a moving average of parameters: the digits' own (147,130 parameters), and one with wide dense
layers, of the size of ResNet-18 (11 million), whose checkpoint has 180 MB. The arrays are copied before the next step, all else happens beside it.
"""

import csv
import statistics
import tempfile
import time
from pathlib import Path

import jax
from absl import app, flags

import cnnjax
from cnnjax import launch, parallel
from cnnjax.data import pipeline
from cnnjax.run_directory.checkpoint import Checkpoints
from cnnjax.training.initial import initial_state
from cnnjax.training.loop import train_step_for
from cnnjax.training.state import pack

HIDDEN = {"147,130 parameters": (), "11 million parameters": (3000, 2500)}  # dense layers


def measure(hidden: tuple[int, ...], pairs: int, seconds: float) -> dict[str, float]:
    config, _ = launch.load_experiment("experiments/digits.py")
    config.model.hidden, config.ema_decay = hidden, 0.999
    exp = cnnjax.build(config)
    state = parallel.place_state(exp.layout, initial_state(exp, lambda line: None))
    step = parallel.compile_train_step(exp.layout, train_step_for(exp), state)
    batch_of = pipeline.TrainBatch(exp.train, 0, config.batch_size)
    number, blocked, rates = 0, [], {True: [], False: []}

    def segment(saving: bool) -> None:
        nonlocal state, number
        started, first = time.monotonic(), number
        if saving:
            checkpoints.save(number, *pack(state), dict(scores=None))
            blocked.append(time.monotonic() - started)
        while time.monotonic() - started < seconds:
            state, metrics = step(state, parallel.place_for_training(exp.layout, batch_of(number)))
            jax.device_get(metrics)
            number += 1
        rates[saving].append((number - first) / (time.monotonic() - started))

    with tempfile.TemporaryDirectory() as folder, Checkpoints(Path(folder)) as checkpoints:
        segment(saving=True)  # the first compiles the step and loads libraries
        blocked.clear(), rates[True].clear()
        for n in range(2 * pairs):
            segment(saving=n % 4 in (1, 2))  # without, with, with, without: a drift hits both alike
            checkpoints.poll(wait=True)
        megabytes = (
            sum(
                p.stat().st_size
                for p in (Path(folder) / "checkpoints" / str(checkpoints.newest())).rglob("*")
                if p.is_file()
            )
            / 1e6
        )
    costs = [100 * (plain / saving - 1) for plain, saving in zip(rates[False], rates[True])]
    return dict(
        checkpoint_mb=round(megabytes, 1),
        pairs=pairs,
        cost_percent_median=round(statistics.median(costs), 2),
        cost_percent_of_means=round(100 * (sum(rates[False]) / sum(rates[True]) - 1), 2),
        cost_percent_min=round(min(costs), 2),
        cost_percent_max=round(max(costs), 2),
        loop_waits_seconds_median=round(statistics.median(blocked), 3),
        steps_per_second_median=round(statistics.median(rates[False]), 2),
    )


def main(_) -> None:
    table = Path(flags.FLAGS.table)
    rows = list(csv.DictReader(table.open())) if flags.FLAGS.table and table.exists() else []
    chosen = {name: hidden for name, hidden in HIDDEN.items() if flags.FLAGS.only in name}
    rows = [row for row in rows if row["network"] not in chosen]  # those of the other stay
    for name, hidden in chosen.items():
        rows.append(dict(network=name) | measure(hidden, flags.FLAGS.pairs, flags.FLAGS.seconds))
        print(rows[-1], flush=True)
    if flags.FLAGS.table:
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    flags.DEFINE_string("only", "", "part of a network's name: measure that one alone")
    flags.DEFINE_integer("pairs", 8, "of half minutes, for each network")
    flags.DEFINE_float("seconds", 30.0, "of each half")
    flags.DEFINE_string("table", "", "CSV file to write")
    app.run(main)
