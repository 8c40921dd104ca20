"""Writes down the numbers of a few short runs, bit for bit, so that a change of the code can be held against them.

python experiments/measurements/same_numbers.py record before.json [--only=digits,nuclei] [--devices=8]
python experiments/measurements/same_numbers.py compare before.json after.json

Of each run: the data's fingerprint, sizes of splits and statistics; three training batches, as read and as augmented; the
parameters before and after 20 steps; losses and norms of the gradients of these; scores of validation and test. Arrays stand
as SHA-256, numbers in full. `compare` says what differs, and by how much, and ends with 1 where anything does; fields of the
configuration, which may be called otherwise now, are listed but do not count.

`nuclei` needs $CNNJAX_DATA_DIR/dsb2018_nuclei, `cells` data/bccd_cells (experiments/data/cells.py); what is not there is
left out, and said. Bits are those of a machine and of versions, which are recorded too: compare on the same.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))
STEPS, BATCHES = 20, (0, 1, 400)  # the last is of a later epoch
SHORT = (
    "steps=20",
    "log_every=1",
    "evaluate_every=10",
    "evaluate_unit=steps",
    "schedule.unit=steps",
    "schedule.warmup=5",
)
RUNS = {
    "digits": ("experiments/digits.py", ()),
    "digits_mixed": ("experiments/digits.py", ("input.augmentation.mixup=0.4", "input.augmentation.cutmix=1.0", "model.dropout=0.3")),
    "digit_scenes": ("experiments/digit_scenes_unet.py", ("batch_size=8",)),
    "nuclei": ("experiments/nuclei.py", ("batch_size=8", "model.base=4", "task.crop=64")),
    "cells": ("experiments/alexnet_imagenet.py:cells", ("batch_size=8", "model.width=0.0625", "model.hidden=64")),
}  # fmt: skip
SWEEP = """
from cnnjax.sweeps.ablation import Sweep, values

def get_sweep():
    return Sweep(
        base="experiments/digits.py", hypothesis="A larger rate learns sooner.", seeds=(0, 1),
        common={"steps": 20, "log_every": 1, "model.channels": (8,), "model.blocks": 1},
        factors=dict(rate=values("optimizer.learning_rate", 1e-3, 4e-3)),
    )
"""


def hashed(array) -> str:
    import numpy as np

    array = np.ascontiguousarray(array)
    return f"{array.dtype} {list(array.shape)} {hashlib.sha256(array.tobytes()).hexdigest()[:16]}"


def of_tree(tree) -> dict[str, str]:
    """Path -> what `hashed` says of the leaf."""
    import jax

    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {"/".join(str(getattr(key, "key", key)) for key in path): hashed(leaf) for path, leaf in leaves}


def of_run(name: str, workdir: Path) -> dict:
    """All numbers of one run."""
    import jax

    from cnnjax import experiment, knobs, launch
    from cnnjax.data.pipeline import TrainBatch
    from cnnjax.training.fit import fit
    from cnnjax.training.initial import initial_state
    from cnnjax.training.logbook import read_entries

    spec, changes = RUNS[name]
    line = launch.parse([f"--config={spec}", *(f"--config.{change}" for change in (*SHORT, *changes))], ())
    built = experiment.build(line.config)
    record = built.record
    found = dict(
        fingerprint=record.fingerprint,
        splits=record.split_sizes,
        class_names=list(record.class_names),
        statistics=of_tree(record.statistics),
        config=knobs.to_dict(line.config),
        batches={},
        augmented={},
        initial=of_tree(initial_state(built, print).params),
    )
    read = TrainBatch(built.train, line.config.seed, line.config.batch_size)
    for number in BATCHES:
        batch = read(number)
        found["batches"][number] = of_tree(batch)
        found["augmented"][number] = of_tree(jax.jit(built.augment)(jax.random.key(number), batch))
    fit(built, workdir, log=lambda text: None)
    found["last"] = of_tree(saved_parameters(workdir))
    timed = ("time", "images_per_second", "seconds")
    found["log"] = [{k: v for k, v in entry.items() if k not in timed} for entry in read_entries(workdir)]
    summary = json.loads((workdir / "summary.json").read_text())
    found["summary"] = {k: v for k, v in summary.items() if k not in timed}
    return found


def saved_parameters(workdir: Path) -> dict:
    from cnnjax.run_directory.checkpoint import Checkpoints

    with Checkpoints(workdir, read_only=True) as checkpoints:
        return checkpoints.restore_model(STEPS)


def of_sweep(folder: Path) -> dict:
    """Scores of each trial, as the sweep's table has them."""
    import csv

    (folder / "sweep.py").write_text(SWEEP)
    command = [sys.executable, "run.py", "sweep", f"--config={folder / 'sweep.py'}", f"--workdir={folder / 'out'}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    rows = list(csv.DictReader((folder / "out" / "results.csv").open()))
    return dict(rows=[{k: v for k, v in row.items() if "second" not in k and k != "hardware"} for row in rows])


def missing(name: str) -> str:
    """Which data a run lacks, or nothing."""
    needs = dict(
        nuclei=Path(os.environ.get("CNNJAX_DATA_DIR", "data")) / "dsb2018_nuclei", cells=ROOT / "data/bccd_cells"
    )
    return "" if name not in needs or needs[name].is_dir() else f"{needs[name]} is not there"


def record(out: Path, only: tuple[str, ...], devices: int) -> None:
    os.chdir(ROOT)
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    import jax

    from cnnjax.compilation_cache import use_compilation_cache

    use_compilation_cache()
    git = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    where = dict(commit=git, jax=jax.__version__, python=sys.version.split()[0], devices=jax.device_count())
    found = json.loads(out.read_text()) if only and out.exists() else dict(where=where)
    if found["where"] != where:
        sys.exit(f"{out} was written elsewhere ({found['where']}, now {where}): give another file.")
    for name in only or (*RUNS, "sweep"):
        if why := missing(name):
            print(f"{name}: left out, {why}")
            continue
        with tempfile.TemporaryDirectory() as folder:
            found[name] = of_sweep(Path(folder)) if name == "sweep" else of_run(name, Path(folder) / "run")
        text = json.dumps(found, indent=1) + "\n"
        if data := os.environ.get("CNNJAX_DATA_DIR"):  # where that is on this machine is no number of a run
            text = text.replace(data, "$CNNJAX_DATA_DIR")
        out.write_text(text)
        print(f"{name}: written", flush=True)


def differences(one, other, at: str = "") -> list[str]:
    """Lines, one a value that is not the same in both."""
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        return [line for key in keys for line in differences(one.get(key), other.get(key), f"{at}/{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [line for n, pair in enumerate(zip(one, other)) for line in differences(*pair, f"{at}/{n}")]
    if one == other or one != one and other != other:  # both are no number
        return []
    if one is None or other is None:
        return [f"{at}: only {'now' if one is None else 'before'}"]
    if isinstance(one, float) and isinstance(other, float):
        return [f"{at}: {one!r} before, {other!r} now, by {abs(one - other) / max(abs(one), 1e-30):.1e} of it"]
    return [f"{at}: {one!r} before, {other!r} now"]


def main(verb: str, first: str, *others: str) -> int:
    options = dict(option.removeprefix("--").split("=") for option in others if option.startswith("--"))
    if verb == "record":
        record(
            Path(first).absolute(),
            tuple(filter(None, options.get("only", "").split(","))),
            int(options.get("devices", 1)),
        )
        return 0
    one, other = (json.loads(Path(path).read_text()) for path in (first, others[0]))
    found = differences(one, other)
    notes = [line for line in found if line.startswith("/where") or "/config/" in line]
    told = [line for line in found if line not in notes]
    print("\n".join([*notes, *told]))
    print(
        f"{len(told)} numbers differ." if told else f"All the same: {', '.join(key for key in one if key != 'where')}."
    )
    return 1 if told else 0


if __name__ == "__main__":
    if len(sys.argv) < dict(record=3, compare=4).get(sys.argv[1] if len(sys.argv) > 1 else "", 99):
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
