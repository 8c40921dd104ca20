"""The rooms of the code: who may import whom."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "cnnjax"

# A room uses what stands on lower floors. Rooms on one floor do not import each other.
FLOORS = [
    {
        "errors",
        "knobs",
        "cache",
        "xla",
        "memory",
        "processes",
        "migration",
        "foreign",
        "compilation_cache",
        "device_memory",
        "storage",
    },  # foundations: knobs and cache use errors
    {"config", "kernels"},
    {"layers", "inputs", "optimizers", "inspection"},
    {"data"},
    {"models", "tasks", "parallel", "run_directory"},
    {"serialization"},
    {"experiment", "evaluation", "starters"},
    {"training", "inference"},
    {"launch", "usage", "benchmark", "command_line", "bare"},
    {"sweeps"},
    {"verbs"},
    {"cli"},
    {"__main__"},
]
FOUNDATIONS = FLOORS[0]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """The rooms of cnnjax that a file imports, anywhere in it."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        rooms |= {name.split(".")[1] for name in names if name.startswith("cnnjax.")}
    return rooms


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def test_every_file_has_a_floor():
    assert {room_of(path) for path in FILES} == set(FLOOR)


def test_rooms_import_only_lower_floors():
    offenders = []
    for path in FILES:
        room = room_of(path)
        for other in sorted(imports(path) - {room}):
            if not (FLOOR[other] < FLOOR[room] or {room, other} <= FOUNDATIONS):
                offenders.append(f"{path.relative_to(PACKAGE)} (floor {FLOOR[room]}) imports {other} ({FLOOR[other]})")
    assert offenders == []


def test_models_take_layers_from_one_place():
    elsewhere = ("nn.Conv", "nn.Dense", "nn.max_pool", "nn.avg_pool", "nn.BatchNorm", "nn.Dropout")
    used = [(path.name, n) for path in (PACKAGE / "models").glob("*.py") for n in elsewhere if n in path.read_text()]
    assert used == [], "take it from cnnjax.layers"


def test_files_hold_one_idea():
    long = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in (ROOT / "run.py", *FILES)}
    assert {name: lines for name, lines in long.items() if lines >= (40 if name == "run.py" else 300)} == {}


def test_functions_are_read_at_a_glance():
    """Fewer than 60 lines besides the docstring, and one `nonlocal` at most."""
    offenders = []
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                docstring = ast.get_docstring(node, clean=False) or ""
                lines = node.end_lineno - node.lineno + 1 - len(docstring.splitlines())
                nonlocals = sum(isinstance(inner, ast.Nonlocal) for inner in ast.walk(node))
                if lines >= 60 or nonlocals > 1:
                    offenders.append(f"{path.relative_to(PACKAGE)}, {node.name}: {lines} lines, {nonlocals} nonlocal")
    assert offenders == []


TARGETS = {"label", "mask", "pixel_weight", "partner_label", "instances"}  # keys of a batch that are of a task alone
OF_TASKS = ("tasks", "inputs", "data", "migration")


def test_no_other_room_knows_a_task_or_its_targets():
    """Neither the name of a task (but for the one that is taken where none is named), nor the key of a target."""
    from cnnjax.serialization import DEFAULTS
    from cnnjax.tasks import TASKS

    offenders = []
    for path in FILES:
        if room_of(path) in OF_TASKS:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            texts = {node.value} if isinstance(node, ast.Constant) and isinstance(node.value, str) else set()
            is_dict = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "dict"
            names = {word.arg for word in node.keywords if word.arg} if is_dict else set()
            if path.name == "serialization.py":
                texts -= {DEFAULTS["task"]}
            if found := texts & (TARGETS | set(TASKS)) | names & TARGETS:
                offenders.append(f"{path.relative_to(PACKAGE)}, line {node.lineno}: {', '.join(found)}")
    assert offenders == []


def test_neither_tensorflow_nor_pytorch_is_needed():
    for name in ("requirements.txt", "requirements-cuda13.txt"):
        packages = {line.split("==")[0] for line in (ROOT / name).read_text().splitlines() if "==" in line}
        assert {"jax", "flax", "optax"} <= packages
        assert not packages & {"tensorflow", "torch", "keras", "tf-keras"}
