"""How much memory `predict` takes for a large picture, by a run's network: one process a size, peak memory of each.

python experiments/measurements/large_picture.py runs/nuclei experiments/results/large_picture.csv [1000 2500 5000]
"""

import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

MEGABYTE = 1e6


def make(path: Path, side: int, channels: int) -> None:
    """A picture file of random squares."""
    random = np.random.default_rng(0)
    part = np.kron(random.integers(0, 256, (2, 2, channels), dtype=np.uint8), np.ones((150, 150, 1), np.uint8))
    pixels = np.tile(part, (-(-side // 300), -(-side // 300), 1))[:side, :side]
    Image.fromarray(pixels[..., 0] if channels == 1 else pixels).save(path)


def one(workdir: str, folder: str) -> dict:
    """Predicts FOLDER/large.png; memory in MB of 10^6 bytes, beyond what it took to predict the small ones there."""
    from cnnjax import inference

    run, folder = inference.load(workdir), Path(folder)

    def predict(name: str) -> dict:
        writer = run.network.task.writer(run.record, run.config, folder / "out", {})
        ((_, said),) = inference.write_predictions(run, [folder / f"{name}.png"], writer)
        assert isinstance(said, dict), said
        return said

    peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    for name in ("small", "warm"):  # which compile the network for small tiles and for large
        predict(name)
    before, started = peak(), time.monotonic()
    result = predict("large")
    pixels = sum(row["pixels"] for row in result["classes"])
    return dict(
        picture_and_mask_mb=round(pixels * (run.record.image_shape[-1] + 1) / MEGABYTE, 1),
        more_memory_mb=round((peak() - before) / MEGABYTE, 1),
        process_mb=round(peak() / MEGABYTE, 1),
        seconds=round(time.monotonic() - started, 1),
    )


def main(workdir: str, table: str, *sides: str) -> None:
    rows = []
    channels = json.loads(Path(workdir, "dataset.json").read_text())["image_shape"][-1]
    for side in map(int, sides or ("1000", "2500", "5000")):
        with tempfile.TemporaryDirectory() as folder:
            for name, size in dict(small=300, warm=600, large=side).items():
                make(Path(folder, f"{name}.png"), size, channels)
            command = [sys.executable, __file__, workdir, folder]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows.append(dict(side=side) | json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    if len(sys.argv) == 3 and Path(sys.argv[2]).is_dir():
        print(json.dumps(one(*sys.argv[1:])))
    elif len(sys.argv) >= 3:
        main(*sys.argv[1:])
    else:
        sys.exit(__doc__)
