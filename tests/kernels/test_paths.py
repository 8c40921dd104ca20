"""Which path is taken, and what is said where one cannot be; the bridge to oneDNN as processes see it."""

import ast
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cnnjax import cli, kernels
from cnnjax.errors import UserError
from cnnjax.kernels import paths
from cnnjax.kernels.onednn import handler, library
from tests.undrawn import no_pictures

ROOT = Path(__file__).parents[2]


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Python code in a process with one device."""
    cleaned = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_NUMPY_RANK_PROMOTION")}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, env=cleaned | environment, timeout=300
    )


# --- The choice -------------------------------------------------------------------------------------------------------


def test_one_cpu_device_takes_onednn_where_it_is(onednn):
    assert kernels.choose("auto", 1, "cpu") == (kernels.ONEDNN, "one CPU device")


@pytest.mark.parametrize("devices, platform_name", [(8, "cpu"), (1, "gpu"), (8, "gpu"), (1, "tpu")])
def test_several_devices_and_accelerators_take_xla_or_what_suits_a_gpu(devices, platform_name):
    usual = kernels.GPU if platform_name == "gpu" else kernels.XLA
    assert kernels.choose("auto", devices, platform_name)[0] == usual
    for name in (kernels.ONEDNN, kernels.PORTABLE):
        with pytest.raises(UserError, match=f"config.kernels={name} cannot work: .*--config.kernels=auto"):
            kernels.choose(name, devices, platform_name)


def test_names_are_taken_at_their_word():
    assert kernels.choose("xla", 1, "cpu")[0] == kernels.XLA
    assert kernels.choose("portable", 1, "cpu")[0] == kernels.PORTABLE
    assert kernels.choose("gpu", 8, "gpu") == (kernels.GPU, "as asked for")
    assert kernels.choose("xla", 8, "gpu")[0] == kernels.XLA


@pytest.mark.parametrize("platform_name", ("cpu", "tpu"))
def test_a_gpus_kernels_elsewhere_are_refused(platform_name):
    with pytest.raises(
        UserError, match=f"kernels=gpu cannot work: .*this is a {platform_name}. Take --config.kernels=auto"
    ):
        kernels.choose("gpu", 1, platform_name)


def _missing_wheel(monkeypatch):
    def nothing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", nothing)


def _missing_gomp(monkeypatch):
    real = library.ctypes.CDLL

    def cdll(name, *args, **kwargs):
        if name == "libgomp.so.1":
            raise OSError("libgomp.so.1: cannot open shared object file")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(library.ctypes, "CDLL", cdll)


LACKING = {
    "Linux on x86-64, this is darwin": lambda m: m.setattr(sys, "platform", "darwin"),
    "Linux on x86-64, this is linux on aarch64": lambda m: m.setattr(platform, "machine", lambda: "aarch64"),
    "this CPU has no AVX2": lambda m: m.setattr(library, "cpu_flags", lambda: frozenset({"sse2"})),
    "onednn-cpu-gomp is not installed: pip install onednn-cpu-gomp": _missing_wheel,
    "libgomp.so.1 is missing: install the package libgomp1": _missing_gomp,
    "FFI has version 0.9, this code knows 0.3, 0.4": lambda m: m.setattr(handler, "ffi_version", lambda: (0, 9)),
    "allows no generated machine code": lambda m: m.setattr(handler, "_executable", _refuse),
}


def _refuse(code):
    raise PermissionError(13, "Permission denied")


@pytest.mark.parametrize("why", LACKING)
def test_what_is_missing_is_said_in_a_line_and_portable_kernels_serve(onednn, monkeypatch, why):
    monkeypatch.setattr(handler, "load", library.load.__wrapped__)  # as in a process that has not loaded it yet
    monkeypatch.setattr(paths, "bridge", handler._bridge.__wrapped__)
    LACKING[why](monkeypatch)
    path, reason = kernels.choose("auto", 1, "cpu")
    assert path == kernels.PORTABLE and why in reason and "\n" not in reason
    with pytest.raises(UserError, match="config.kernels=onednn cannot work: .*" + re.escape(why.split(":")[0])):
        kernels.choose("onednn", 1, "cpu")


# --- The bridge -------------------------------------------------------------------------------------------------------

STEP = """
import jax, jax.numpy as jnp, numpy as np
import cnnjax
from cnnjax import compilation_cache, kernels, parallel
compilation_cache.use_compilation_cache()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
assert kernels.choose("auto", 1)[0] == "onednn"

def loss(x, w):
    with kernels.using("onednn"):
        y = kernels.convolution(x, w, (1, 1), "SAME", dimension_numbers=kernels.channels_last(2))
        return (kernels.max_pool(y, (2, 2), (2, 2), ((0, 0), (0, 0))) ** 2).sum()

rng = np.random.default_rng(0)
x, w = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((16, 32, 32, 32), (3, 3, 32, 48)))
step = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
"""


def test_compiled_programs_serve_other_processes(onednn, tmp_path):
    """They hold keys, no addresses: a program from the cache gives the same bits in a process that did not compile it."""
    code = STEP + "print(repr(float(step(x, w)[0])), float(abs(step(x, w)[1][0]).sum()))"
    first, second = (run(code, CNNJAX_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert first.stdout == second.stdout != ""
    entries = [f.name for f in (tmp_path / "compiled").iterdir() if f.name.startswith("jit_loss")]
    assert len([name for name in entries if name.endswith("-cache")]) == 1, entries


def test_a_process_may_end_with_work_under_way(onednn, tmp_path):
    code = STEP + "step(x, w)\nfor _ in range(20): out = step(x, w)\n"
    for end in ("", "import os, sys; sys.exit(5)"):
        done = run(code + end, CNNJAX_CACHE_DIR=str(tmp_path))
        assert done.returncode == (5 if end else 0), done.stderr
        assert "Error" not in done.stderr and "Fatal" not in done.stderr


def test_a_process_that_computes_may_fork_workers(onednn, tmp_path):
    """Workers use NumPy alone, as data workers do; both go on."""
    code = (
        STEP
        + """
import os, warnings
warnings.simplefilter("ignore")
jax.block_until_ready(step(x, w))
child = os.fork()
if child == 0:
    os._exit(0 if np.ones((100, 100)).sum() == 10000 else 1)
assert os.waitpid(child, 0)[1] == 0
jax.block_until_ready(step(x, w))
"""
    )
    done = run(code, CNNJAX_CACHE_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_the_first_users_may_be_threads(onednn, tmp_path):
    code = """
import threading
import jax
from cnnjax import kernels
jax.devices()
together, found = threading.Barrier(8), []
def first():
    together.wait()
    found.append(kernels.choose("auto", 1)[0])
threads = [threading.Thread(target=first) for _ in range(8)]
[t.start() for t in threads], [t.join() for t in threads]
print(found == 8 * ["onednn"])
"""
    done = run(code, CNNJAX_CACHE_DIR=str(tmp_path))
    assert done.stdout == "True\n", done.stderr


def test_a_full_table_is_said_once_and_portable_kernels_serve(onednn, monkeypatch, capfd):
    paths.say_once.cache_clear()
    monkeypatch.setattr(handler, "MOST", 0)
    with kernels.using(onednn):
        for rows in (211, 223):  # of which no other test has made a kernel
            a = jnp.ones((rows, 2))
            y = kernels.dense(a, jnp.ones((2, 3)), (((1,), (0,)), ((), ())))
            np.testing.assert_array_equal(y, np.full((rows, 3), 2.0))
            normal = kernels.local_response_norm(a.repeat(32, 1), n=5, k=1.0, alpha=0.0, beta=0.75)
            np.testing.assert_array_equal(normal, np.ones((rows, 64)))
    said = "more than 0 different oneDNN kernels in one process: further ones are portable"
    assert capfd.readouterr().err == f"cnnjax: {said}.\n"


def test_an_unknown_key_is_an_error_not_a_crash(onednn):
    call = jax.ffi.ffi_call(handler.TARGET, jax.ShapeDtypeStruct((2,), jnp.float32))
    with pytest.raises(jax.errors.JaxRuntimeError, match="oneDNN"):
        jax.block_until_ready(call(jnp.ones(2), key=np.int64(12345)))


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_the_handler_reads_xlas_structures_where_they_are(tmp_path):
    """handler.c against XLA's own header, which jaxlib brings."""
    pairs = {
        "XLA_FFI_CallFrame": dict(extension_start=8, api=16, ctx=24, stage=32, args=40, rets=80, attrs=120),
        "XLA_FFI_Args": dict(size=16, args=32),
        "XLA_FFI_Rets": dict(size=16, rets=32),
        "XLA_FFI_Attrs": dict(size=16, names=32, attrs=40),
        "XLA_FFI_Buffer": dict(dtype=16, data=24),
        "XLA_FFI_Scalar": dict(value=8),
        "XLA_FFI_Api": dict(api_version=16, XLA_FFI_Error_Create=48),
        "XLA_FFI_Api_Version": dict(major_version=16, minor_version=20),
        "XLA_FFI_Metadata": dict(api_version=8, traits=32),
        "XLA_FFI_Metadata_Extension": dict(metadata=24),
        "XLA_FFI_Error_Create_Args": dict(message=16, errc=24),
    }
    asserts = "".join(
        f'_Static_assert(offsetof({struct}, {field}) == {offset}, "{struct}.{field}");\n'
        for struct, fields in pairs.items()
        for field, offset in fields.items()
    )
    ours = "#include <stddef.h>\n" + (ROOT / "cnnjax/kernels/onednn/handler.c").read_text()
    own = {"frame": dict(extension=8, api=16, args=40, rets=80, attributes=120), "list": dict(count=16, items=32),
           "attributes": dict(count=16, items=40), "buffer": dict(data=24), "metadata": dict(version=8, traits=32),
           "extension": dict(type=8, metadata=24), "api": dict(version=16, error_create=48)}  # fmt: skip
    ours += "".join(
        f'_Static_assert(offsetof(struct {struct}, {field}) == {offset}, "{struct}.{field}");\n'
        for struct, fields in own.items()
        for field, offset in fields.items()
    )
    theirs = '#include <stddef.h>\n#include <stdint.h>\n#include "xla/ffi/api/c_api.h"\n' + asserts
    for name, source in (("ours", ours), ("theirs", theirs)):
        (tmp_path / f"{name}.c").write_text(source)
        done = subprocess.run(
            ["cc", "-fsyntax-only", f"-I{jax.ffi.include_dir()}", str(tmp_path / f"{name}.c")],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.skipif(shutil.which("cc") is None or platform.machine() != "x86_64", reason="no C compiler for x86-64")
def test_the_handler_is_what_its_source_says(onednn, tmp_path, monkeypatch):
    """Compiled anew, in another process, it gives the same bits."""
    flags = re.search(r"^HANDLER_FLAGS = (.*)$", (ROOT / "Makefile").read_text(), re.M).group(1).split()
    source = ROOT / "cnnjax/kernels/onednn/handler.c"
    subprocess.run(["cc", *flags, "-c", str(source), "-o", str(tmp_path / "h.o")], check=True)
    subprocess.run(
        ["objcopy", "-O", "binary", "-j", ".text", str(tmp_path / "h.o"), str(tmp_path / "h.bin")], check=True
    )
    told = f"from cnnjax.kernels.onednn import handler\nhandler.CODE = open({str(tmp_path / 'h.bin')!r}, 'rb').read()\n"
    code = STEP.replace(
        "from cnnjax import compilation_cache, kernels, parallel\n",
        "from cnnjax import compilation_cache, kernels, parallel\n{}",
    )
    results = [
        run(code.replace("{}", new) + "print(repr(float(step(x, w)[0])))", CNNJAX_CACHE_DIR=str(tmp_path))
        for new in ("", told)
    ]
    assert results[0].stdout == results[1].stdout != "", results[1].stderr


# --- Whole runs -------------------------------------------------------------------------------------------------------


SMALL = ("--config.model.channels=8,16", "--config.model.blocks=1", "--config.log_every=1", "--config.data.test=")


def train(workdir, path, *flags):
    flags = (*SMALL, "--config.devices=1", f"--config.kernels={path}", f"--workdir={workdir}", *flags)
    with no_pictures():
        assert cli.main(["run.py", "train", "--config=experiments/digits.py", *flags]) == 0


def losses(workdir):
    import json

    entries = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [e["loss"] for e in entries if e["split"] == "train"]


def test_short_trainings_on_each_path_agree(path, tmp_path, capsys):
    train(tmp_path / path, path, "--config.steps=40")
    assert f"kernels {path}: as asked for" in capsys.readouterr().out
    train(tmp_path / "xla", "xla", "--config.steps=40")
    ours, xla = losses(tmp_path / path), losses(tmp_path / "xla")
    np.testing.assert_allclose(ours[:5], xla[:5], rtol=1e-3)  # later, rounding has grown
    assert abs(ours[-1] - xla[-1]) < 0.1 * xla[0]


@pytest.mark.parametrize("path", [kernels.ONEDNN, pytest.param(kernels.PORTABLE, marks=pytest.mark.slow)])
def test_resume_is_bitwise_on_the_same_path(path, tmp_path, request):
    if path == kernels.ONEDNN:
        request.getfixturevalue("onednn")
    constant = "--config.schedule.name=constant"
    train(tmp_path / "straight", path, constant, "--config.steps=30")
    for steps in (15, 30):
        train(tmp_path / "halves", path, constant, f"--config.steps={steps}")
    assert losses(tmp_path / "halves") == losses(tmp_path / "straight")


def test_the_cost_of_a_start_is_measured(onednn):
    """Ten products and convolutions of LeNet-5 at least have primitives, whose building takes time."""
    found = run("from experiments.measurements import start_cost; print(start_cost.one('lenet'))")
    assert found.returncode == 0, found.stderr
    seconds = ast.literal_eval(found.stdout.splitlines()[-1])
    assert seconds["calls"] >= 10 and 0 < seconds["primitives"] < 5 and 0 < seconds["load"] < 5
