"""Exceptions that are not caused by a defect in areal; the command line prints each as one line."""

from __future__ import annotations

import difflib
import importlib.metadata
import re
import signal
import sys
import traceback
from collections.abc import Iterable

DISTRIBUTION = "areal-gym"
"""The name of this package for pip: on PyPI, `areal` is another program."""

WITH_ENGINE = f"pip install '{DISTRIBUTION}[cpu]', or '{DISTRIBUTION}[gpu]' on a machine with a GPU"
"""How to install areal with everything that a run needs."""

_SITE = "site-packages"


class UserError(Exception):
    """Bad input. The message is one line that says what is wrong and what to do.

    The command line prints the message without a traceback and exits with status 2.
    """


class DiskFull(UserError):
    """A disk is full. Existing files are unchanged."""


class WorkerLost(Exception):
    """A process that a run needs did not start, died, or cannot do its work.

    The user is not at fault, and a repeated episode does not help: the process must be replaced.
    The message is one line. The command line prints it without a traceback and exits with status 2.
    """


class WorkerFrozen(WorkerLost):
    """A process that a run needs froze and was killed; the message says how areal detected this."""


class RunStalled(WorkerLost):
    """No part of a run made progress; the message says what waited for what, and names the report."""


class EngineLost(WorkerLost):
    """An engine was lost. If the message has no cause, areal.telemetry.logs adds vLLM's last error."""


class WrongNumbers(EngineLost):
    """An engine was stopped because it computes wrong results; its requests in flight are discarded."""


class TransferFailed(WorkerLost):
    """Weights did not reach an engine, because another participant of the transfer was lost.

    The engine is intact. Its generation pauses until it has reconnected and loaded a version.
    """


class LearnerLost(WorkerLost):
    """A process of the learner was lost; the message says which one and how it ended."""


class EnvironmentFailure(RuntimeError):
    """An environment raised an exception or did not return in time; the message is one line.

    It names the environment, the place and the task.

    The episode runs again. If it keeps failing, the command line prints the message without a traceback and
    exits with status 2.
    """


class AgentFailure(RuntimeError):
    """An agent, or the program that it runs, failed. The message is one line with the reason.

    The episode runs again. If it keeps failing, the command line prints the message without a traceback and
    exits with status 2.
    """


class ForeignFailure(RuntimeError):
    """Foreign code raised in another process; the message is what :func:`explained` returned there."""


class RolloutWorkerLost(ForeignFailure):
    """The process that ran an episode ended; the episode runs again."""


class Interrupted(Exception):
    """The user stopped the run. The message says how to resume it.

    The command line prints the message without a traceback and exits with status 130.
    """


def install_hint(extra: str) -> str:
    """Return the command that installs an extra of the package, such as ``data``."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


def missing_requirement(error: ModuleNotFoundError) -> str | None:
    """Return one line that says how to install a missing package; None: areal does not need the package."""
    module = (error.name or "").partition(".")[0]
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:  # areal runs from a checkout and is not installed
        requirements = []
    ours = {re.split(r"[^\w-]", line)[0].replace("-", "_") for line in requirements if "extra ==" not in line}
    return f"{module} is not installed; install it with {WITH_ENGINE}" if module in ours else None


def nearest(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Return ``"; did you mean 'x'?"`` for the known name closest to ``name``, or an empty string."""
    match = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"; did you mean '{match[0]}'?" if match else ""


def explained(error: BaseException, caller: str) -> str:
    """Return one line that says what foreign code raised, and where.

    Args:
        error: the exception.
        caller: the file that called that code.
    """
    text = " ".join(str(error).split())[:300]
    if isinstance(error, ForeignFailure):
        return str(error)
    if isinstance(error, SyntaxError):  # its message contains the place
        return f"{type(error).__name__}: {text}"
    place = place_of(traceback.extract_tb(error.__traceback__), caller)
    return f"{type(error).__name__}{': ' if text else ''}{text} (at {place})"


def how_ended(code: int) -> str:
    """Return how a process ended: ``exit code 3``, or ``killed by SIGKILL``.

    Args:
        code: its exit code; the negative number of the signal that killed it.
    """
    if code >= 0:
        return f"exit code {code}"
    names = {each.value: each.name for each in signal.Signals}
    return f"killed by {names.get(-code, f'signal {-code}')}"  # real-time signals have no name


def place_of(stack: traceback.StackSummary, caller: str) -> str:
    """Return the innermost line outside of Python and installed packages, as ``file:line``.

    Args:
        stack: the outermost line first.
        caller: a file; only frames within its last call count.
    """
    calls = [i for i, frame in enumerate(stack) if frame.filename == caller]
    inside = (stack[calls[-1] + 1 :] if calls else stack) or stack
    own = [f for f in inside if not f.filename.startswith((sys.base_prefix, "<")) and _SITE not in f.filename]
    frame = (own or inside)[-1]
    return f"{frame.filename}:{frame.lineno}"
