"""Stands for `run.py train` in the tests of sweeps: writes what a run writes, and stops and goes on as one, in no time.

    python tests/sweeps/stub_trial.py train --config=... --config.steps=N ... --workdir=FOLDER

It takes its configuration from the sweep's sweep.json, sleeps STEP_SECONDS a step when it is started for the first time, and
fails as training does where the learning rate is absurd. Standard library alone: a real trial spends its first seconds on
loading JAX.
"""

import json
import math
import os
import signal
import sys
import time
from pathlib import Path

STEP_SECONDS = 0.002
DATASET = dict(
    name="digits:1.0.0", class_names=list("0123456789"), image_shape=[8, 8, 1], dtype="uint8",
    statistics=dict(mean=[0.3], std=[0.4], components=[[0.4]]), split_sizes=dict(train=853, validation=45, test=899),
    fingerprint="of the digits", has_objects=False, mask_code=None,
)  # fmt: skip


class Stopped(Exception):
    pass


def stop(*_):
    # A cluster sends it to all processes, and the one around a trial hands it on: a trial takes the second for the same.
    signal.signal(signal.SIGTERM, signal.SIG_IGN if os.environ.get("CNNJAX_TRIAL") else signal.SIG_DFL)
    raise Stopped


def write(path: Path, value) -> None:
    temporary = path.with_name(f".{path.name}")
    temporary.write_text(json.dumps(value))
    temporary.replace(path)


def save(folder: Path, step: int) -> None:
    (folder / "checkpoints" / str(step)).mkdir(parents=True, exist_ok=True)


def main(folder: Path) -> int:
    config = json.loads((folder.parents[1] / "sweep.json").read_text())["trials"][f"{folder.parent.name}/{folder.name}"]
    saved = [int(path.name) for path in folder.glob("checkpoints/*")]
    step, steps, every = max(saved, default=0), config["steps"], config["log_every"]
    starts = folder / "environment.json"
    before = json.loads(starts.read_text())["starts"] if starts.exists() else []
    write(starts, dict(starts=[*before, dict(step=step)]))
    write(folder / "dataset.json", DATASET)
    write(folder / "config.json", config)
    score = math.exp(-config["optimizer"]["learning_rate"])
    signal.signal(signal.SIGTERM, stop)
    try:
        while step < steps:
            if not before:
                time.sleep(STEP_SECONDS)
            step += 1
            if config["optimizer"]["learning_rate"] > 1e9:
                print(f"cnnjax: The loss is not finite at step {step} (nan); nothing of it was saved.", file=sys.stderr)
                return 1
            if step % every == 0:
                entry = dict(
                    step=step, epoch=step / 13.3, split="train", loss=1.0, images_per_second=100.0, time=time.time()
                )
                with (folder / "metrics.jsonl").open("a") as file:
                    file.write(json.dumps(entry) + "\n")
    except Stopped:
        save(folder, step)
        print(f"cnnjax: stopped by SIGTERM at step {step} of {steps}, and saved.", file=sys.stderr)
        return 3
    save(folder, steps)
    (folder / "learning_curves.png").write_bytes(b"")
    write(folder / "summary.json", dict(accuracy=score, loss=1.0, steps=steps, stopped_early=False, seconds=1.0))
    return 0


if __name__ == "__main__":
    (workdir,) = (word.removeprefix("--workdir=") for word in sys.argv if word.startswith("--workdir="))
    sys.exit(main(Path(workdir)))
