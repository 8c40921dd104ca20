"""The command line: which verb, and what its end means to the shell."""

import gc
import shlex
import sys
from pathlib import Path

from cnnjax import usage, verbs
from cnnjax.errors import Interrupted, RunError, UserError
from cnnjax.knobs import nearest
from cnnjax.usage import FLAGS, Verb

STOPPED = 3  # a signal asked a run to stop, and it saved first
KILLED = 130  # the shell's own code for Ctrl-C


def main(argv: list[str]) -> int:
    """Runs the verb of a command line. Returns the exit code: 0 done, 1 the run failed, 2 misuse, 3 stopped as asked."""
    # Python looks for garbage after every 700 new objects, and JAX makes very many while it traces: with fewer looks a short
    # run (150 steps of a small network on the digits, 2 cores) takes 9 % less time.
    gc.set_threshold(100_000, 50, 100)
    code = _code_of(argv)
    if "jax" in sys.modules:
        from cnnjax import processes

        processes.leave(code)
    return code


def _code_of(argv: list[str]) -> int:
    """Runs the verb, and says in a line what ended it."""
    try:
        return _dispatch(argv)
    except UserError as error:
        print(f"cnnjax: {_as_typed(str(error), argv)}", file=sys.stderr)
        return 2
    except Interrupted as error:
        print(f"cnnjax: {error}\n  {_program(argv)} {shlex.join(argv[1:])}", file=sys.stderr)
        return STOPPED
    except RunError as error:
        print(f"cnnjax: {_as_typed(str(error), argv)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        hint = " The same command goes on from the newest checkpoint, if there is one." if "train" in argv else ""
        print(f"cnnjax: interrupted.{hint}", file=sys.stderr)
        return KILLED
    except BrokenPipeError:  # the reader of our output, `head` say, has left
        sys.stderr.close()
        return 1
    except (PermissionError, NotADirectoryError, IsADirectoryError, FileNotFoundError) as error:
        print(f"cnnjax: {error.filename}: {error.strerror}.", file=sys.stderr)
        return 2
    except MemoryError as error:
        print(f"cnnjax: this takes more memory than there is: {error or 'arrays of that size'}.", file=sys.stderr)
        return 1
    except OSError as error:  # the disk is full, say
        print(f"cnnjax: {error.filename or 'the system'}: {error.strerror or error}.", file=sys.stderr)
        return 1


def _program(argv: list[str]) -> str:
    """What was typed before the verb: `python run.py` in a checkout, `cnnjax` or `python -m cnnjax` where it is installed."""
    name = Path(argv[0]).name
    return dict(cnnjax="cnnjax").get(name) or (
        "python -m cnnjax" if name == "__main__.py" else f"python {shlex.quote(argv[0])}"
    )


def _as_typed(text: str, argv: list[str]) -> str:
    """A text whose commands begin as the one that was typed."""
    if Path(argv[0]).name == "run.py":
        return text.replace("python run.py", _program(argv))
    text = text.replace("--config=experiments/digits.py", "--config=digits")  # which is installed
    return text.replace("python run.py", _program(argv))


def _dispatch(argv: list[str]) -> int:
    arguments = argv[1:]
    if not arguments or arguments[0] in ("--help", "-h", "-help", "help"):
        print(_as_typed(usage.general_help(VERBS), argv))
        return 0
    verb, *rest = arguments
    if verb not in VERBS:
        if verb.startswith("-"):
            raise UserError(f"The verb comes first: python run.py {'|'.join(VERBS)} {verb} ...")
        raise UserError(f"There is no verb {verb!r}.{nearest(verb, VERBS)} The verbs are {', '.join(VERBS)}.")
    if any(a in ("--help", "-h", "-help", "--helpfull") for a in rest):
        print(_as_typed(usage.verb_help(verb, VERBS[verb], FLAGS[verb]), argv))
        return 0
    return VERBS[verb].run(rest) or 0


VERBS = dict(
    train=Verb(
        verbs.train,
        "train a network, or go on with a run",
        "python run.py train --config=experiments/digits.py --workdir=runs/digits",
    ),
    evaluate=Verb(
        verbs.evaluate,
        "score a run on a split, or on other data",
        "python run.py evaluate --workdir=runs/digits --split=test",
    ),
    predict=Verb(
        verbs.predict,
        "classify pictures, or their pixels",
        "python run.py predict experiments/pictures --workdir=runs/digits",
    ),
    inspect=Verb(
        verbs.inspect,
        "look at a network before it is trained: layers, work, field of view",
        "python run.py inspect --model=alexnet",
    ),
    benchmark=Verb(
        verbs.benchmark,
        "how fast a network trains on this machine",
        "python run.py benchmark --model=resnet18 --batch=32",
    ),
    sweep=Verb(
        verbs.sweep,
        "run an ablation: factors and seeds, one table",
        "python run.py sweep --config=experiments/ablations/digits_activation.py --workdir=runs/activation --parallel=2",
    ),
    prepare=Verb(
        verbs.prepare,
        "make a data set of tfds ready, or convert one",
        "python run.py prepare --config=experiments/digits.py",
    ),
    config=Verb(
        verbs.config,
        "print every knob of an experiment or a run",
        "python run.py config --config=experiments/digits.py",
    ),
)
