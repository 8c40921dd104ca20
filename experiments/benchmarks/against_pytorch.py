"""Training steps of the same networks in cnnjax and in PyTorch, timed in turn in one run.

    python experiments/benchmarks/against_pytorch.py --pytorch=PATH/TO/python --table=FILE.csv [--rows=lenet,unet16]

PyTorch has an environment of its own (`requirements-benchmark.txt`; --pytorch is its python) and a process of its
own, which sleeps while cnnjax's works, and the other way round. Both train with SGD and momentum on one resident
batch of noise. The weights are copied, and both must begin with the same loss, to 1e-3 (where rounding in bfloat16
adds up to more, in float32). PyTorch runs channels_last with fused SGD, eager and through torch.compile (max-autotune
on a GPU, unless --compile_mode says otherwise), and the faster of both counts. A ratio above 1 says that cnnjax is
faster. The precision bfloat16 is autocast there.
"""

import argparse
import csv
import functools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # two processes share a GPU

import jax
import jax.numpy as jnp
import numpy as np
from networks import CPU_ROWS, GPU_ROWS, hardware, small

import cnnjax  # noqa: F401 (before JAX computes: it sets flags)
from cnnjax import benchmark, parallel
from cnnjax.inspection.layer_table import layer_table

HERE = Path(__file__).parent
AGREE = 1e-3  # of the first losses, relative
ROUNDING = 3e-2  # at most, of a deep network in bfloat16 that agrees in float32
TURN_SECONDS, ROUNDS = 1.5, 7


class Disagreement(Exception):
    """The two sides do not compute the same: there is nothing to compare."""


class PyTorch:
    """The process that holds PyTorch's networks."""

    def __init__(self, python: str):
        self.process = subprocess.Popen(
            [python, str(HERE / "torch_side.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1"},  # that compiling be timed
        )

    @functools.cached_property
    def version(self) -> str:
        """What it says when PyTorch is loaded, which takes a while: cnnjax's side compiles in the meantime."""
        return self._answer()["torch"]

    def ask(self, **order):
        _ = self.version  # its first line
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = self._answer()
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer

    def _answer(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("PyTorch's process has died; what it said stands above.")
        return json.loads(line)


class Ours:
    """cnnjax's side: the compiled step with its state and batch."""

    def __init__(self, options, side: int, channels: int, classes: int, batch: int, precision: str, layout):
        shape, dtype = (side, side, channels), jnp.dtype(precision)
        model = options.build(classes, dtype, False)
        step, state, placed = benchmark.training_of(benchmark.PerPixel(model), shape, batch, layout)
        self.variables = jax.device_get(dict(params=state.params["inner"]))
        self.batch = jax.device_get(placed)
        variables = dict(params=state.params, **({"batch_stats": state.batch_stats} if state.batch_stats else {}))
        variables = jax.device_get(variables)  # the step takes the state's own arrays
        self.first_loss = lambda dtype: _first_loss(options, classes, jnp.dtype(dtype), variables, placed, layout)
        rows = layer_table(model, jax.ShapeDtypeStruct((1, *shape), jnp.float32), train=False)
        self.layers, self.macs = [row.name for row in rows.rows if row.learnables], rows.macs
        started = time.perf_counter()
        self.compiled = parallel.compile_train_step(layout, step, state).lower(state, placed).compile()
        self.compile_seconds = time.perf_counter() - started
        self.state, self.placed = state, placed

    def save(self, file: str, classes: int) -> None:
        """What PyTorch's side needs: the batch, and each layer's arrays by the order of the calls."""
        arrays = {}
        for number, name in enumerate(self.layers):
            tree = self.variables["params"]
            for part in name.split("/"):
                tree = tree[part]
            arrays |= {f"{number}/{key}": np.asarray(value) for key, value in tree.items()}
        np.savez(file, image=self.batch["image"], label=self.batch["label"], classes=classes, **arrays)

    def seconds(self, steps: int) -> list[float]:
        taken = []
        for _ in range(steps):
            started = time.perf_counter()
            self.state, metrics = self.compiled(self.state, self.placed)
            jax.block_until_ready(metrics)
            taken.append(time.perf_counter() - started)
        return taken


def _first_loss(options, classes: int, dtype, variables, batch, layout) -> float:
    """By the statistics of the batch, as training has it, but without dropout."""
    quiet = small(type(options)(**{f: getattr(options, f) for f in options.__dataclass_fields__}))
    if hasattr(quiet, "dropout"):
        quiet.dropout = 0.0
    model = benchmark.PerPixel(quiet.build(classes, dtype, False))

    def loss(variables, batch):
        logits, _ = model.apply(variables, batch["image"], train=True, mutable=["batch_stats"])
        picked = jnp.take_along_axis(jax.nn.log_softmax(logits), batch["label"][:, None], 1)
        return -picked.mean()

    precise = "highest" if dtype == jnp.float32 else None  # a GPU would round to TF32, which PyTorch's side does not
    with jax.default_matmul_precision(precise):
        lowered = parallel.compile_eval_step(layout, loss).lower(variables, batch)
    # It is run once: a GPU's compiler need not search for the fastest form of each convolution.
    hurried = {} if jax.default_backend() == "cpu" else {"xla_gpu_autotune_level": 0}
    return float(lowered.compile(compiler_options=hurried)(variables, batch))


def check_same(name: str, precision: str, ours: Ours, pytorch: PyTorch, loss: float) -> float:
    """cnnjax's first loss, which agrees with PyTorch's, to `AGREE`.

    In bfloat16 some fifty layers with BatchNorm can add more rounding than that, up to `ROUNDING`. Then the networks must
    agree in float32, and the table shows both losses.

    Raises:
      Disagreement: they do not.
    """
    first = ours.first_loss(precision)
    mine, theirs, at = first, loss, precision
    close = lambda tolerance: math.isclose(mine, theirs, rel_tol=tolerance)
    if at != "float32" and close(ROUNDING) and not close(AGREE):
        mine, theirs, at = ours.first_loss("float32"), pytorch.ask(do="loss", **{"as": "eager"})["loss"], "float32"
        print(
            f"  {name}: first losses {first} here, {loss} in PyTorch; in float32 {mine} and {theirs}", file=sys.stderr
        )
    if not close(AGREE):
        raise Disagreement(f"{name}: the first losses in {at} differ: {mine} here, {theirs} in PyTorch.")
    return first


def compare(name: str, row, precision: str, pytorch: PyTorch, layout, rounds: int, ceiling: float, mode: str) -> dict:
    """One line of the table."""
    options, side, channels, classes, batch, their_name = row
    ours = Ours(options, side, channels, classes, batch, precision, layout)
    with tempfile.TemporaryDirectory() as folder:
        ours.save(f"{folder}/row.npz", classes)
        given = dict(name=their_name, file=f"{folder}/row.npz", precision=precision)
        given |= dict(rate=benchmark.LEARNING_RATE, momentum=benchmark.MOMENTUM, mode=mode)
        forms = {"eager": False, "compile": True}
        for form, compiled in list(forms.items()):
            loss = pytorch.ask(do="make", **{"as": form, "with": given | dict(compiled=compiled)})["loss"]
            if form == "eager":
                first_loss = check_same(name, precision, ours, pytorch, loss)
            started = time.perf_counter()
            try:
                pytorch.ask(do="run", **{"as": form}, steps=2)
            except RuntimeError as error:
                print(f"  PyTorch {form}: {error}", file=sys.stderr)
                del forms[form]
            first_steps = time.perf_counter() - started  # two of them; of torch.compile: in these it compiles
    if not forms:
        raise Disagreement(f"{name} {precision}: PyTorch runs it neither eager nor compiled, as it says above.")
    one = statistics.median(ours.seconds(3))
    steps = max(2, round(TURN_SECONDS / one))
    run = {"cnnjax": ours.seconds} | {
        form: lambda n, form=form: pytorch.ask(do="run", **{"as": form}, steps=n)["seconds"] for form in forms
    }
    taken = {who: [] for who in run}
    for number in range(rounds):
        order = list(run) if number % 2 == 0 else list(reversed(run))
        for who in order:
            taken[who].append(statistics.median(run[who](steps)))
    best = min(forms, key=lambda form: statistics.median(taken[form]))
    ratios = [theirs / mine for theirs, mine in zip(taken[best], taken["cnnjax"])]
    step = statistics.median(taken["cnnjax"])
    rate = 6 * ours.macs * batch / step
    return dict(
        network=name,
        input=f"{side}x{side}x{channels}",
        batch=batch,
        precision=precision,
        ratio=round(statistics.median(ratios), 3),
        least=round(min(ratios), 3),
        most=round(max(ratios), 3),
        cnnjax_ms=round(step * 1e3, 2),
        **{
            f"pytorch_{form}_ms": round(statistics.median(taken[form]) * 1e3, 2) if form in forms else ""
            for form in ("eager", "compile")
        },
        gflops=round(rate / 1e9, 1),
        mfu=round(rate / ceiling, 4),
        cnnjax_compile_s=round(ours.compile_seconds, 1),
        pytorch_first_steps_s=round(first_steps, 1) if "compile" in forms else "",
        rounds=rounds,
        first_loss=round(first_loss, 5),
        first_loss_pytorch=round(loss, 5),
        kernels=layout.kernels,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pytorch", required=True, help="python of an environment with PyTorch")
    parser.add_argument("--table", help="FILE.csv")
    parser.add_argument("--rows", default="", help="networks, with commas; default: all")
    parser.add_argument(
        "--precision", default="", help="float32 or bfloat16; default: both on a CPU, bfloat16 on a GPU"
    )
    parser.add_argument("--kernels", default="auto")
    parser.add_argument("--compile_mode", default="", help="torch.compile's; default: max-autotune on a GPU")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    asked = parser.parse_args()
    layout = parallel.layout(1, kernels=asked.kernels)
    on_cpu = jax.default_backend() == "cpu"
    rows = CPU_ROWS if on_cpu else GPU_ROWS
    mode = asked.compile_mode or ("default" if on_cpu else "max-autotune")
    names = asked.rows.split(",") if asked.rows else list(rows)
    if unknown := set(names) - set(rows):
        raise SystemExit(f"There is no row {', '.join(sorted(unknown))}: {', '.join(rows)}.")
    precisions = [asked.precision] if asked.precision else ["float32", "bfloat16"] if on_cpu else ["bfloat16"]
    table, failed = [], 0
    for precision in precisions:
        if not on_cpu:  # without TF32, as torch_side.py has it
            jax.config.update("jax_default_matmul_precision", "highest" if precision == "float32" else None)
        ceiling = benchmark.product_flops(precision, layout.kernels)
        for name in names:
            pytorch = PyTorch(asked.pytorch)  # a fresh one each time: what it holds costs memory
            try:
                line = compare(name, rows[name], precision, pytorch, layout, asked.rounds, ceiling, mode)
            except Disagreement as error:
                print(error, file=sys.stderr)
                failed = 1
                continue
            finally:
                pytorch.process.stdin.close()
                pytorch.process.wait()
            line |= dict(compile_mode=mode, torch=pytorch.version, jax=jax.__version__, hardware=hardware())
            table.append(line)
            print(
                f"{name:15} {precision:8}  {line['ratio']:.2f} ({line['least']:.2f} to {line['most']:.2f})   cnnjax "
                f"{line['cnnjax_ms']} ms, PyTorch eager {line['pytorch_eager_ms']}, compiled {line['pytorch_compile_ms']}"
                f"   {line['mfu']:.0%} of {ceiling / 1e9:,.0f} GFLOP/s",
                flush=True,
            )
            if asked.table:
                write(asked.table, table)
        if ratios := [line["ratio"] for line in table if line["precision"] == precision]:
            print(f"{'geometric mean':15} {precision:8}  {statistics.geometric_mean(ratios):.2f}")
    sys.exit(failed)


def write(file: str, table: list[dict]) -> None:
    """After each row: what is measured is not lost when a later one fails."""
    with open(file, "w", newline="") as opened:
        writer = csv.DictWriter(opened, fieldnames=list(table[0]))
        writer.writeheader()
        writer.writerows(table)


if __name__ == "__main__":
    main()
