"""How cnnjax tells a person that something cannot be done: misuse, failures, interruptions, files that cannot be read."""


class UserError(Exception):
    """What was asked for cannot be done as asked: a wrong name, value, file or folder.

    The message is one or two lines: what is wrong, where, and what to do. The command line exits with code 2.
    """


class RunError(Exception):
    """The request was well formed, but the run failed: a loss that is not finite, a picture that cannot be read.

    The command line exits with code 1.
    """


class Interrupted(RunError):
    """A signal asked a run to stop; it has saved, and can go on. The command line exits with code 3."""


class DoesNotFit(UserError):
    """A layer's window is larger than what arrived at it: the network's input is too small."""


class Unreadable(Exception):
    """A file that cannot be read as an input. The message is one line that goes on from the file's name: 'is truncated'."""


def first_line(error: Exception) -> str:
    """'ValueError: what was wrong', on one line whatever the message is like."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"
