"""How much memory it takes to segment a large picture, by a run's network: one process a size, peak memory of each.

python experiments/measurements/large_picture.py runs/nuclei experiments/results/large_picture.csv [1000 2500 5000]
"""

import csv
import json
import resource
import subprocess
import sys
import time

import numpy as np

MEGABYTE = 1e6


def one(workdir: str, side: int) -> dict:
    """Segments noise of so many pixels a side; memory in MB of 10^6 bytes, beyond what the process held before."""
    from cnnjax import inference

    run = inference.load(workdir)
    segment = inference.segmenter(run)
    channels = run.record.image_shape[-1]
    random = np.random.default_rng(0)
    small = random.integers(0, 256, (300, 300, channels), dtype=np.uint8)
    for _ in segment(small):  # compiled for small tiles; the large ones are compiled below, before memory is looked at
        pass
    large = np.broadcast_to(small[:1, :1], (600, 600, channels))
    for _ in segment(large):
        pass
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    image = np.empty((side, side, channels), np.uint8)
    for top in range(0, side, 300):
        for left in range(0, side, 300):
            place = image[top : top + 300, left : left + 300]
            place[:] = small[: place.shape[0], : place.shape[1]]
    mask = np.zeros((side, side), np.uint8)
    started = time.monotonic()
    for top, probabilities in segment(image):
        mask[top : top + len(probabilities)] = probabilities.argmax(-1)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return dict(
        side=side,
        picture_and_mask_mb=round((image.nbytes + mask.nbytes) / MEGABYTE, 1),
        more_memory_mb=round((after - before) / MEGABYTE, 1),
        process_mb=round(after / MEGABYTE, 1),
        seconds=round(time.monotonic() - started, 1),
    )


def main(workdir: str, table: str, *sides: str) -> None:
    rows = []
    for side in sides or ("1000", "2500", "5000"):
        done = subprocess.run([sys.executable, __file__, workdir, side], capture_output=True, text=True, check=True)
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(rows[-1], flush=True)
    with open(table, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    if len(sys.argv) == 3 and sys.argv[2].isdigit():
        print(json.dumps(one(sys.argv[1], int(sys.argv[2]))))
    elif len(sys.argv) >= 3:
        main(*sys.argv[1:])
    else:
        sys.exit(__doc__)
