"""Runs one experiment with several seeds (5: 0 to 4; or 1,2; or 3,) one after another, and writes a table of what came out.

python experiments/measurements/seeds.py experiments/digits.py 5 experiments/results/digits.csv [--config.KNOB=VALUE ...]

--keep=DIR keeps the run directories, as DIR/seed0 and so on.
"""

import contextlib
import csv
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def hardware() -> str:
    """The processor, its cores, and a GPU where there is one."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    gpu = subprocess.run(
        "nvidia-smi --query-gpu=name --format=csv,noheader", shell=True, capture_output=True, text=True
    )
    cores = f"{os.cpu_count()} cores of {models[0] if models else platform.processor()}"
    return ", ".join([cores, *filter(None, gpu.stdout.strip().splitlines())])


def scores_of(summary: dict) -> dict:
    """What stands in the table of a test: of a classifier its accuracy, of a segmentation each class and the objects."""
    scores = dict(test_accuracy=summary["accuracy"], test_examples=summary["examples"])
    if "calibration_error" in summary:
        scores |= dict(calibration_error=summary["calibration_error"])
    if "mean_iou" in summary:
        scores |= dict(mean_iou=summary["mean_iou"], mean_dice=summary["mean_dice"])
        few = summary["classes"] if len(summary["classes"]) <= 4 else ()
        scores |= {f"{score}_{row['name']}": row[score] for row in few for score in ("iou", "dice")}
        scores |= {f"objects_{name}": value for name, value in summary.get("objects", {}).items()}
    return {name: f"{value:.4f}" if isinstance(value, float) else value for name, value in scores.items()}


def main(config: str, seeds: str, table: str, *flags: str) -> None:
    old = list(csv.DictReader(open(table))) if Path(table).exists() else []
    chosen = [int(seed) for seed in seeds.split(",") if seed] if "," in seeds else list(range(int(seeds)))
    rows = [row for row in old if int(row["seed"]) not in chosen]  # those of other seeds stay
    keep = next((flag.removeprefix("--keep=") for flag in flags if flag.startswith("--keep=")), "")
    flags = tuple(flag for flag in flags if not flag.startswith("--keep="))
    for seed in chosen:
        with contextlib.nullcontext(f"{keep}/seed{seed}") if keep else tempfile.TemporaryDirectory() as workdir:
            command = [sys.executable, "run.py", "train", f"--config={config}", f"--config.seed={seed}", *flags]
            started = time.monotonic()
            subprocess.run([*command, f"--workdir={workdir}"], check=True)
            summary = json.loads((Path(workdir) / "summary.json").read_text())
            versions = json.loads((Path(workdir) / "environment.json").read_text())["starts"][-1]
        rows.append(
            dict(
                command=" ".join(["python", *command[1:]]),
                seed=seed,
                **scores_of(summary),
                steps=summary["steps"],
                seconds_in_all=round(time.monotonic() - started, 1),
                hardware=hardware(),
                python=versions["python"],
                jax=versions["packages"]["jax"],
                date=time.strftime("%Y-%m-%d"),
            )
        )
        with open(table, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
            writer.writeheader()
            writer.writerows(sorted(rows, key=lambda row: int(row["seed"])))
    for name in ("test_accuracy", "mean_iou", "objects_f1"):
        if name in rows[0]:
            scores = [float(row[name]) for row in rows]
            spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
            print(f"{config}: {name} {statistics.mean(scores):.4f}, deviation {spread:.4f}, over {len(rows)} seeds")


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])
