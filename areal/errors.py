"""The exceptions that are not a defect of areal: the command line prints each as one line."""

from __future__ import annotations

import difflib
import importlib.metadata
import re
import sys
import traceback
from collections.abc import Iterable

DISTRIBUTION = "areal-gym"
"""What pip calls this package: on PyPI `areal` is another program."""

WITH_ENGINE = f"pip install '{DISTRIBUTION}[cpu]', or on a machine with a GPU '{DISTRIBUTION}[gpu]'"
"""How areal is installed with all that a run needs."""

_SITE = "site-packages"


class UserError(Exception):
    """Bad input. Its message is one line: what is wrong, and what to do.

    The command line prints the message without a traceback and exits with status 2.
    """


class DiskFull(UserError):
    """There is no space left on a disk. What was there before is untouched."""


class WorkerLost(Exception):
    """A process that a run needs did not start, has died, or cannot do what it is asked to do.

    It is not the user's error, and running an episode again does not help: the process has to be replaced.
    The message is one line. The command line prints it without a traceback and exits with status 2.
    """


class WorkerFrozen(WorkerLost):
    """A process that a run needs was frozen, and has been killed; the message says by what it was found."""


class RunStalled(WorkerLost):
    """Nothing in a run moved any more; the message says who waited for what, and where the report is."""


class EngineLost(WorkerLost):
    """An engine was lost. Where the message states no cause, areal.telemetry.logs adds vLLM's last error."""


class WrongNumbers(EngineLost):
    """An engine is given up because it computes wrongly: nothing of its requests in flight counts."""


class TransferFailed(WorkerLost):
    """Weights did not reach an engine, because something else was lost that took part in their transfer.

    The engine lives. Its generation is paused until it has connected again and loaded a version.
    """


class LearnerLost(WorkerLost):
    """A process of the learner was lost; the message says which one and how it ended."""


class EnvironmentFailure(RuntimeError):
    """An environment raised, or did not return in time. Its message is one line: which, where, on what task.

    Such an episode is run again. Where that does not help, the command line prints the message without a
    traceback and exits with status 2.
    """


class AgentFailure(RuntimeError):
    """An agent, or the program that it runs, failed. Its message is one line that says why.

    Such an episode is run again. Where that does not help, the command line prints the message without a
    traceback and exits with status 2.
    """


class ForeignFailure(RuntimeError):
    """Code that is not ours raised in another process; the message is what :func:`explained` said there."""


class RolloutWorkerLost(ForeignFailure):
    """The process that ran an episode has ended; the episode is run again."""


class Interrupted(Exception):
    """The user stopped the run. Its message says how to go on.

    The command line prints the message without a traceback and exits with status 130.
    """


def install_hint(extra: str) -> str:
    """Return the command that installs one of the package's extras, such as ``data``."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def missing_requirement(error: ModuleNotFoundError) -> str | None:
    """Return in one line what to do about a package that areal needs; None: it is not areal that needs it."""
    module = (error.name or "").partition(".")[0]
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that nobody installed
        requirements = []
    ours = {re.split(r"[^\w-]", line)[0].replace("-", "_") for line in requirements if "extra ==" not in line}
    return f"{module} is not installed: {WITH_ENGINE}" if module in ours else None


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to ``name``, or an empty string."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"; did you mean '{match[0]}'?" if match else ""


def explained(error: BaseException, caller: str) -> str:
    """Return in one line what was raised by code that is not ours, and where.

    Args:
        error: what was raised.
        caller: the file that called that code.
    """
    text = " ".join(str(error).split())[:300]
    if isinstance(error, ForeignFailure):
        return str(error)
    if isinstance(error, SyntaxError):  # its place is in its text
        return f"{type(error).__name__}: {text}"
    place = place_of(traceback.extract_tb(error.__traceback__), caller)
    return f"{type(error).__name__}{': ' if text else ''}{text} (at {place})"


def place_of(stack: traceback.StackSummary, caller: str) -> str:
    """Return the innermost line that is not of Python's own or an installed package's, as ``file:line``.

    Args:
        stack: the outermost line first.
        caller: a file; only what lies within the last call that it made counts.
    """
    calls = [i for i, frame in enumerate(stack) if frame.filename == caller]
    inside = (stack[calls[-1] + 1 :] if calls else stack) or stack
    own = [f for f in inside if not f.filename.startswith((sys.base_prefix, "<")) and _SITE not in f.filename]
    frame = (own or inside)[-1]
    return f"{frame.filename}:{frame.lineno}"
