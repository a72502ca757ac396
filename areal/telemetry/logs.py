"""Reserves the screen for the display; all other output goes to a file.

The file descriptors 1 and 2 are redirected, so this applies to vLLM, to native code and to every child
process; the Python objects ``sys.stdout`` and ``sys.stderr`` do not change. Afterwards the redirection is
undone.
"""

from __future__ import annotations

import asyncio
import io
import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, TextIO

from areal.errors import AgentFailure, EngineLost, EnvironmentFailure, Interrupted, UserError, WorkerLost

if TYPE_CHECKING:
    from areal.telemetry.run_directory import RunDirectory

_TAIL = 40
_LOOKED_AT = 2**20
"""Number of bytes at the end of the output that are searched for the cause of a failure."""
_ERROR = re.compile(r"^(?:.*[\s\]])?((?:[\w.]*(?:Error|Exception)|Fatal Python error): .+)$", re.MULTILINE)
# Ctrl-C reaches a coroutine as a cancellation. The engine's output explains none of these.
_EXPECTED = (
    UserError,
    WorkerLost,
    AgentFailure,
    EnvironmentFailure,
    Interrupted,
    KeyboardInterrupt,
    asyncio.CancelledError,
)


@contextmanager
def capture(directory: RunDirectory | None) -> Iterator[TextIO]:
    """Send all output of this process and its children to the run's ``engine.log``; yield the real terminal.

    The package's own log goes to the run's ``areal.log``. Without a directory the output is kept, and its end
    is shown if the block fails unexpectedly.

    Raises:
        UserError: the files cannot be written.
        EngineLost: the block raised it; its message includes the last printed error.
    """
    with ExitStack() as stack:
        terminal = stack.enter_context(_real_terminal())
        sink = stack.enter_context(_kept_aside(terminal) if directory is None else _log_file(directory))
        stack.enter_context(_package_log(directory))
        begin = sink.seek(0, os.SEEK_END)
        stack.enter_context(_redirected(sink.fileno()))
        try:
            yield terminal
        except EngineLost as failure:
            sink.seek(max(begin, sink.seek(0, os.SEEK_END) - _LOOKED_AT))
            raise EngineLost(_explained(failure, sink.read(), directory)) from failure


def _explained(failure: EngineLost, output: bytes, directory: RunDirectory | None) -> str:
    """Return, in one line, the failure and the last error of the output that does not merely repeat it.

    A failure that names its cause needs no other.
    """
    errors = [e for e in _ERROR.findall(output.decode(errors="replace")) if "EngineCore" not in e]
    cause = ""
    if ": " not in str(failure):
        cause = " without an error message, usually because memory ran out"
        if errors:
            cause = f"; the last error in its output: {errors[-1].strip()[:300]}"
    where = f"; {directory.engine_log} has all output" if directory is not None else ""
    return f"{failure}{cause}{where}"


@contextmanager
def _real_terminal() -> Iterator[TextIO]:
    if not _is_on(sys.stderr, 2):  # a notebook shows output of the object, not of the descriptor
        yield sys.stderr
        return
    encoding = sys.stderr.encoding or "utf-8"
    file = io.BufferedWriter(_Terminal(os.dup(2), "w"))
    with io.TextIOWrapper(file, encoding, errors="replace", line_buffering=True) as terminal:
        yield terminal


class _Terminal(io.FileIO):
    """A terminal that may be gone, or a file on a full disk; a run continues without either."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data) or 0
        except OSError:
            return len(data)


def _is_on(stream: TextIO, descriptor: int) -> bool:
    try:
        return stream.fileno() == descriptor
    except (OSError, ValueError, AttributeError):  # not a real file
        return False


@contextmanager
def _log_file(directory: RunDirectory) -> Iterator[IO[bytes]]:
    try:
        file = directory.engine_log.open("a+b")
    except OSError as error:
        raise UserError(f"cannot write {directory.engine_log}: {error.strerror}") from error
    with file:
        yield file


@contextmanager
def _kept_aside(terminal: TextIO) -> Iterator[IO[bytes]]:
    with tempfile.TemporaryFile("a+b") as file:
        try:
            yield file
        except _EXPECTED:
            raise
        except BaseException:
            file.seek(0)
            for line in file.read().decode(errors="replace").splitlines()[-_TAIL:]:
                terminal.write(line + "\n")
            terminal.flush()
            raise


@contextmanager
def _package_log(directory: RunDirectory | None) -> Iterator[None]:
    logger = logging.getLogger("areal")
    level, propagate = logger.level, logger.propagate
    try:
        handler = logging.FileHandler(directory.log_file, encoding="utf-8") if directory else None
    except OSError as error:
        raise UserError(f"cannot write the log: {error.filename}: {error.strerror}") from error
    if handler is not None:
        handler.setLevel(logging.INFO)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.propagate = propagate
        if handler is not None:
            logger.removeHandler(handler)
            handler.close()


@contextmanager
def _redirected(target: int) -> Iterator[None]:
    _flush()
    saved = {descriptor: os.dup(descriptor) for descriptor in (1, 2)}
    try:
        for descriptor in saved:
            os.dup2(target, descriptor)
        yield
    finally:
        _flush()
        for descriptor, original in saved.items():
            os.dup2(original, descriptor)
            os.close(original)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed or absent
            stream.flush()
