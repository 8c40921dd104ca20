"""Which of the faults in `mutant_list.py` the tests notice: what a shorter suite must not lose.

    python experiments/measurements/mutants.py record
    python experiments/measurements/mutants.py run --results=experiments/results/mutants.csv

`record` runs the suite once under coverage.py, and keeps in `.mutants/` which test runs which line, and for how long. `run`
puts one fault at a time into a copy of the last commit, and runs the tests that can see it, the shortest first, until one
fails: those that run a line of the fault, or any line of its file where the fault is in what an import runs (first those
whose file names what is changed), at most --seconds of them. It prints a line for each fault, and ends with exit code 1
where one is missed. With `--all` the tests that are marked slow count too (record them with `record --all`); `--only=TEXT`
takes the faults whose file has the text. Two processes share the work.
"""

import argparse
import ast
import collections
import csv
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

from mutant_list import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / ".mutants"
DATA, DURATIONS = KEPT / "coverage", KEPT / "durations.jsonl"
PROGRAMS = Path(".pytest_cache/d/programs")  # that the tests have compiled
SETTINGS = """[run]
source = {root}/cnnjax
data_file = {data}
parallel = true
core = ctrace
disable_warnings = no-data-collected, module-not-imported, module-not-measured, no-ctracer
patch = subprocess, _exit
sigterm = false
"""
MARGIN = 240  # seconds beyond three times what the tests took before, after which a fault is said to hang them


def environment(**more: str) -> dict[str, str]:
    """Of pytest: the plugin beside this script is found."""
    return os.environ | dict(PYTHONPATH=str(Path(__file__).parent), PYTHONDONTWRITEBYTECODE="1") | more


def record(marks: list[str]) -> None:
    """Runs the suite once, and keeps which test runs which line."""
    KEPT.mkdir(exist_ok=True)
    for old in KEPT.iterdir():
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    settings = KEPT / "coveragerc"
    settings.write_text(SETTINGS.format(root=ROOT, data=DATA))
    coverage = [sys.executable, "-m", "coverage"]
    command = [*coverage, "run", f"--rcfile={settings}", "-m", "pytest", "-p", "mutants_plugin", *marks]
    done = subprocess.run(command, cwd=ROOT, env=environment(CNNJAX_RECORD=str(DURATIONS)))
    if done.returncode > 1:  # where a test fails, what the others ran is known all the same
        raise SystemExit(done.returncode)
    subprocess.run([*coverage, "combine", f"--rcfile={settings}", "--quiet"], cwd=ROOT, check=True)


def seen_by(mutant: Mutant, lines_of: dict[int, set[str]]) -> tuple[set[str], bool]:
    """(the tests that run a line of the fault, whether that says all): not where an import runs it."""
    text = (ROOT / "cnnjax" / mutant.file).read_text()
    start = text[: text.index(mutant.before)].count("\n") + 1
    lines = set(range(start, start + mutant.before.rstrip("\n").count("\n") + 1))
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef)]
    inside = {line for f in functions for line in range(f.body[0].lineno, f.end_lineno + 1)}
    statements = {line for f in functions for s in ast.walk(f) if isinstance(s, ast.stmt) and s is not f
                  and s.lineno <= max(lines) and s.end_lineno >= min(lines) for line in range(s.lineno, s.end_lineno + 1)
                  if not hasattr(s, "body")}  # fmt: skip
    if lines & inside:
        return set().union(*(lines_of.get(line, set()) for line in lines | statements)), True
    return set().union(*(lines_of.get(line, set()) for line in inside), set()), False


def recorded() -> tuple[dict[str, dict[int, set[str]]], dict[str, float]]:
    """({file below cnnjax: {line: tests}}, {test: seconds})."""
    import coverage

    data = coverage.CoverageData(str(DATA))
    data.read()
    by_file = {}
    for file in data.measured_files():
        contexts = data.contexts_by_lineno(file)
        by_file[os.path.relpath(file, ROOT / "cnnjax")] = {line: set(names) - {""} for line, names in contexts.items()}
    seconds: dict[str, float] = collections.defaultdict(float)
    for line in DURATIONS.read_text().splitlines():
        test, taken = json.loads(line)
        seconds[test] += taken
    return by_file, seconds


def chosen(mutant: Mutant, by_file, seconds, limit: float) -> list[str]:
    """The tests that can see a fault, the shortest first, of at most so many seconds together; where an import runs the
    fault, first those whose file names what it changes."""
    tests, exact = seen_by(mutant, by_file.get(mutant.file, {}))
    exact = exact and bool(tests)  # what ran when the package was imported is known of no test
    tests = (tests or set(seconds)) & seconds.keys()
    words = set(re.findall(r"[A-Za-z_]{5,}", mutant.before)) - {"class", "Exception", "return"}
    texts = {file: (ROOT / file).read_text() for file in {test.split("::")[0] for test in tests}}
    far = {file: not exact and not any(word in text for word in words) for file, text in texts.items()}
    kept, total = [], 0.0
    for test in sorted(tests, key=lambda test: (far[test.split("::")[0]], seconds[test], test)):
        total += seconds[test]
        if kept and total > limit:
            break
        kept.append(test)
    return kept


def verdict(mutant: Mutant, tree: Path, tests: list[str], seconds: dict[str, float], marks: list[str]) -> str:
    """'TEST' that fails, 'hangs', or '' where none does."""
    path = tree / "cnnjax" / mutant.file
    text = path.read_text()
    path.write_text(text.replace(mutant.before, mutant.after))
    try:
        return failing(tree, tests, 3 * sum(seconds[test] for test in tests) + MARGIN, marks)
    finally:
        path.write_text(text)


def failing(tree: Path, tests: list[str], limit: float, marks: list[str], stop: bool = True) -> str:
    """The tests that fail, with spaces between, or 'hangs'."""
    order, found = tree.with_suffix(".order"), tree.with_suffix(".failed")
    order.write_text("\n".join(tests))
    found.write_text("")
    command = [sys.executable, "-m", "pytest", "-p", "mutants_plugin", "-n0", *marks]
    command += ["-x"] * stop + sorted({test.split("::")[0] for test in tests})
    process = subprocess.Popen(
        command, cwd=tree, env=environment(CNNJAX_ORDER=str(order), CNNJAX_FAILED=str(found)), text=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        said, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        process.communicate()
        return "hangs"
    failed = found.read_text().splitlines()
    if process.returncode not in (0, 1, 5):  # 5: there was no test to run
        failed.append(f"pytest exits with {process.returncode}: {said.strip().splitlines()[-1][:80]}")
    return "; ".join(failed)


def caught_in(results: str) -> dict[tuple[str, str], str]:
    """{(file, what is wrong): the test that noticed it, or ''} of a results file."""
    with open(results) as file:
        return {(row["file"], row["why"]): row["caught_by"] for row in csv.DictReader(file)}


def require_each_once(mutants: list[Mutant]) -> None:
    for mutant in mutants:
        times = (ROOT / "cnnjax" / mutant.file).read_text().count(mutant.before)
        if times != 1:
            raise SystemExit(f"{mutant.file} has this {times} times, not once: {mutant.before!r}")


def run(arguments) -> int:
    marks = ["-m", ""] if arguments.all else []
    by_file, seconds = recorded()
    wanted = [m for m in MUTANTS if arguments.only in m.file]
    require_each_once(wanted)
    if arguments.missed_in:
        caught_by = caught_in(arguments.missed_in)
        wanted = [m for m in wanted if not caught_by.get((m.file, m.why))]
    first = caught_in(arguments.first) if arguments.first else {}
    todo: queue.SimpleQueue = queue.SimpleQueue()
    for number in sorted(range(len(wanted)), key=lambda n: not seen_by(wanted[n], by_file.get(wanted[n].file, {}))[1]):
        todo.put(number)  # those whose tests are known to the line are done sooner
    rows: dict[int, dict] = {}
    trees = [KEPT / f"tree{n}" for n in range(arguments.processes)]
    for tree in trees:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, capture_output=True)
        subprocess.run(
            ["git", "worktree", "add", "--quiet", "--force", "--detach", str(tree), "HEAD"], cwd=ROOT, check=True
        )
        if (ROOT / PROGRAMS).is_dir():
            shutil.copytree(ROOT / PROGRAMS, tree / PROGRAMS)

    def work(tree: Path) -> None:
        while True:
            try:
                number = todo.get_nowait()
            except queue.Empty:
                return
            mutant, started = wanted[number], time.monotonic()
            tests = chosen(mutant, by_file, seconds, arguments.seconds)
            tests = [test for test in tests if not arguments.without or arguments.without not in test]
            tests.sort(key=lambda test: test != first.get((mutant.file, mutant.why)))
            caught = verdict(mutant, tree, tests, seconds, marks) if tests else ""
            taken = time.monotonic() - started
            rows[number] = dict(
                file=mutant.file, why=mutant.why, caught_by=caught, tests=len(tests), seconds=round(taken)
            )
            print(f"{'caught' if caught else 'MISSED'}  {mutant.file}: {mutant.why}  "
                  f"[{caught or f'{len(tests)} tests'}, {taken:.0f} s]", flush=True)  # fmt: skip

    threads = [threading.Thread(target=work, args=(tree,)) for tree in trees]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(rows) < len(wanted):
        raise SystemExit(f"Only {len(rows)} of {len(wanted)} faults were tried: see above.")
    ordered = [rows[number] for number in sorted(rows)]
    # What fails without a fault too proves nothing.
    catching = sorted({test for row in ordered for test in row["caught_by"].split("; ") if "::" in test})
    always = failing(trees[0], catching, 3 * sum(seconds[test] for test in catching) + MARGIN, marks, stop=False)
    for tree in trees:
        subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)
    for row in ordered:
        if row["caught_by"] and set(row["caught_by"].split("; ")) <= set(always.split("; ")):
            print(f"UNSURE  {row['file']}: {row['why']}: {row['caught_by']} fails without the fault")
            row["caught_by"] = ""
    if arguments.results:
        with open(arguments.results, "w", newline="") as file:
            writer = csv.DictWriter(file, ordered[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(ordered)
    missed = [row for row in ordered if not row["caught_by"]]
    print(f"{len(ordered) - len(missed)} of {len(ordered)} faults are caught.")
    return bool(missed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("verb", choices=("record", "run"))
    parser.add_argument("--all", action="store_true", help="the tests that are marked slow too")
    parser.add_argument("--only", default="", help="faults whose file has this text")
    parser.add_argument("--missed-in", default="", help="only faults that a results file says were missed")
    parser.add_argument("--first", default="", help="a results file: the test that noticed a fault there is run first")
    parser.add_argument("--without", default="", help="no tests whose name has this: such as need another before them")
    parser.add_argument("--results", default="", help="a CSV file to write")
    parser.add_argument("--seconds", type=float, default=120, help="of tests, for each fault")
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    if arguments.verb == "record":
        record(["-m", ""] if arguments.all else [])
        return 0
    return run(arguments)


if __name__ == "__main__":
    sys.exit(main())
