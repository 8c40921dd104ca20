"""Kills training runs with SIGKILL at random instants, lets each go on, and compares it with a run that nothing hit.

python experiments/measurements/kills.py --kills=50 --table=experiments/results/kills.csv

--phase=NAME, once or more, kills in these phases alone.

Every trial begins in an empty run directory and is killed once, in a phase that the trials take in turn: while the
program is compiled (its cache is empty then), between steps, while a checkpoint is written, or within an evaluation. The
instant within the phase is random. The same command then finishes the run. Equal means: every array of the newest and of
the best checkpoint (parameters, optimizer state, moving average, batch statistics, plateau schedule, early stopping), every
entry of metrics.jsonl but for wall-clock fields, and the test scores have the same bits as those of the unbroken run.
"""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from absl import app, flags

from cnnjax.run_directory.checkpoint import FOLDER, INCOMPLETE, Checkpoints
from cnnjax.training.logbook import read_entries

ROOT = Path(__file__).parents[2]
PHASES = ("compilation", "steps", "saving", "evaluation")
WALL_CLOCK = ("time", "seconds", "images_per_second")
# All that has a state of its own or randomness of its own, in a run of some seconds.
KNOBS = """
    model.channels=8,16 model.blocks=1 model.dropout=0.2 batch_size=64 accumulate=2 steps=300 evaluate_every=1.37
    input.augmentation.mixup=0.2 input.augmentation.shift=0.1 ema_decay=0.99 optimizer.name=sgd optimizer.learning_rate=0.2
    optimizer.weight_decay=0.001 schedule.name=plateau schedule.patience=2 early_stopping=5 data.validation_fraction=0.5
    eval_batch_size=8 checkpoint.every_minutes=0.003 checkpoint.test=best log_every=7
""".split()

TRIES = flags.DEFINE_integer("kills", 50, "how many kills")
SEED = flags.DEFINE_integer("seed", 0, "of the instants")
IN = flags.DEFINE_multi_enum("phase", PHASES, PHASES, "of a run, to kill in")
TABLE = flags.DEFINE_string("table", "", "CSV file to write")


def command(workdir: Path) -> list[str]:
    return [
        *(sys.executable, "run.py", "train", "--config=experiments/digits.py", f"--workdir={workdir}"),
        *(f"--config.{knob}" for knob in KNOBS),
    ]


def start(workdir: Path, cache: Path) -> subprocess.Popen:
    environment = os.environ | dict(CNNJAX_CACHE_DIR=str(cache))
    output = (workdir.parent / f"{workdir.name}.log").open("a")
    return subprocess.Popen(command(workdir), cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)


def reached(phase: str, workdir: Path) -> bool:
    """Whether the run is in a phase now, from what it has written so far."""
    if phase == "compilation":  # the records are there, the first step is not
        return (workdir / "config.json").exists()
    if phase == "saving":
        return any((workdir / FOLDER).glob(f"*{INCOMPLETE}*"))
    entries = read_entries(workdir)
    if phase == "steps":
        return len(entries) > 3
    # The entry of the steps before an evaluation is written just before it.
    steps = {split: {e["step"] for e in entries if e["split"] == split} for split in ("train", "validation")}
    return any(step % 7 for step in steps["train"] - steps["validation"])


def kill_in(phase: str, process: subprocess.Popen, workdir: Path, rng: random.Random) -> bool:
    """Kills a run at a random instant of a phase. False where it had come to its end."""
    occurrence = 1 if phase == "compilation" else rng.randint(1, 6)  # which save, which evaluation
    inside = False
    while process.poll() is None:
        now = reached(phase, workdir)
        occurrence -= now and not inside
        inside = now
        if occurrence <= 0:
            time.sleep(dict(compilation=rng.uniform(0, 5), steps=rng.uniform(0, 2)).get(phase, rng.uniform(0, 0.02)))
            process.kill()
            return process.wait() == -signal.SIGKILL
        time.sleep(0.001)
    return False


def what_is_left(workdir: Path) -> dict:
    """All of a finished run that must have the same bits."""
    timeless = lambda entry: {name: value for name, value in entry.items() if name not in WALL_CLOCK}
    left = dict(log=[timeless(entry) for entry in read_entries(workdir)])
    left["summary"] = timeless(json.loads((workdir / "summary.json").read_text()))
    with Checkpoints(workdir, read_only=True) as checkpoints:
        for name in ("last", "best"):
            step = checkpoints.chosen(name)
            left[name] = (step, checkpoints.record(step), checkpoints.restore_everything(step))
    return left


def differences(a, b, path: str = "") -> list[str]:
    """Where two nested structures differ, arrays compared bit by bit."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for key in a for d in differences(a[key], b[key], f"{path}/{key}")]
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return [d for i, pair in enumerate(zip(a, b)) for d in differences(*pair, f"{path}/{i}")]
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        same = a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    else:
        same = json.dumps(a) == json.dumps(b)  # NaN equals NaN
    return [] if same else [path]


def main(_) -> None:
    rng, rows = random.Random(SEED.value), []
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        cache = folder / "cache"
        unbroken = folder / "unbroken"
        assert start(unbroken, cache).wait() == 0, (folder / "unbroken.log").read_text()
        expected = what_is_left(unbroken)
        while len(rows) < TRIES.value:
            phase = IN.value[len(rows) % len(IN.value)]
            workdir, own = folder / f"run{len(rows)}", folder / "empty"
            shutil.rmtree(own, ignore_errors=True)
            if not kill_in(phase, start(workdir, own if phase == "compilation" else cache), workdir, rng):
                shutil.rmtree(workdir)  # it was through before its turn came
                continue
            with Checkpoints(workdir, read_only=True) as checkpoints:
                newest = checkpoints.newest()
            code = start(workdir, cache).wait()
            different = differences(expected, what_is_left(workdir)) if code == 0 else [f"exit code {code}"]
            rows.append(
                dict(kill=len(rows) + 1, phase=phase, checkpoint="" if newest is None else newest, equal=not different)
            )
            print(*rows[-1].values(), *different[:3], flush=True)
            if different:
                print((folder / f"{workdir.name}.log").read_text())
            shutil.rmtree(workdir)
    equal = sum(row["equal"] for row in rows)
    for phase in IN.value:
        of_phase = [row["equal"] for row in rows if row["phase"] == phase]
        print(f"{phase:12} {sum(of_phase)} of {len(of_phase)}")
    print(f"{equal} of {len(rows)} killed runs ended with the same bits as the unbroken one.")
    if TABLE.value:
        with open(TABLE.value, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    sys.exit(equal != len(rows))


if __name__ == "__main__":
    app.run(main)
