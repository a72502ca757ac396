"""Judges mathematical answers with rules (:mod:`areal.rewards.mathematics.same`) and, if these do not decide,
with math-verify.

A check ends within its limit, even if sympy hangs, and does not affect other checks. An answer
that cannot be parsed in time is wrong. Only a verifier that cannot run is an error, which never becomes a
reward.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import select
import signal
import subprocess
import sys
import threading
import time
from itertools import accumulate
from pathlib import Path
from typing import Literal, NamedTuple

from areal import faults
from areal.errors import how_ended
from areal.rewards.math_worker import TROUBLE
from areal.rewards.mathematics.notation import plain
from areal.rewards.mathematics.same import judge
from areal.sandbox.process import FROM_OUTSIDE
from areal.starting import main_of, start_process

log = logging.getLogger(__name__)

_STARTUP_LIMIT = 120.0
_LOOK, _LOOKS = 1.0, 5
"""Seconds between two checks of whether a busy worker is stopped, and the number of checks that suffice."""
_PATIENCE = 20.0
"""A worker may take this many times its limit in wall-clock time: a slow machine does not make answers
wrong."""
_ATTEMPTS = 3
_DEEPEST = 50
"""Maximum nesting of parentheses in an answer: with more, math-verify takes too long."""
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}|-?[1-9][0-9]{0,2}(?:,[0-9]{3}){1,5}")
"""Whole numbers, plain or with thousands separators, are compared directly."""
_KNOWN = (r"\max(1, 3)", "3")
"""A pair that each working worker judges equal."""


class VerifierError(RuntimeError):
    """The verifier itself could not run, which says nothing about the answer."""


class MathVerifier:
    """Decides whether two final answers are equivalent; thread-safe.

    Args:
        workers: number of processes; each takes 0.1 GB, and starts within 1 s when it is first needed.
        time_limit: limit of the CPU time of one check, in seconds; the kernel then kills the worker.
        memory: limit of the address space of a worker, in bytes.
        max_length: maximum number of characters of an answer; longer ones are wrong.
    """

    def __init__(
        self, workers: int = 2, time_limit: float = 3.0, memory: int = 2 << 30, max_length: int = 2000
    ) -> None:
        self.time_limit = time_limit
        self.memory = memory
        self.max_length = max_length
        self.killed = 0
        self._workers = workers
        self._reset()
        # A forked child must not talk to its parent's workers.
        os.register_at_fork(after_in_child=self._reset)

    def _reset(self) -> None:
        self._free = threading.Semaphore(self._workers)
        self._idle: list[_CheckerProcess] = []

    def equivalent(self, answer: str, target: str) -> bool:
        r"""Return whether ``answer`` equals ``target``, as in ``\frac12``, ``1/2``, ``0.5``, ``50\%``.

        Raises:
            VerifierError: no worker could start, or a cause other than the answer ended each of them.
        """
        answer, target = answer.strip(), target.strip()
        if _INTEGER.fullmatch(answer) and _INTEGER.fullmatch(target):
            return int(answer.replace(",", "")) == int(target.replace(",", ""))
        if not answer or len(answer) > self.max_length:
            return False
        if answer == target:
            return True
        verdict = judge(answer, target)
        if verdict is not None:
            return verdict
        if _depth(answer) > _DEEPEST:
            return False
        with self._free:
            return self._checked(plain(answer), plain(target))

    def _checked(self, answer: str, target: str) -> bool:
        """Ask workers until the answer, rather than something else, determines how a check ends.

        If the cause is unclear, such as for a crash, the answer is at fault if it crashes each worker while
        other workers judge another pair correctly.
        """
        end = _Ended("", "outside")
        blamed = True
        for attempt in range(_ATTEMPTS):
            try:
                worker = self._take()
                blamed = blamed and (attempt == 0 or worker.ask(*_KNOWN, self.time_limit) is True)
                verdict = worker.ask(answer, target, self.time_limit)
            except _NotStarted as failed:
                verdict = _Ended(str(failed), "outside")
            else:
                if isinstance(verdict, bool):
                    self._idle.append(worker)
                    return verdict
                worker.kill()
            self.killed += 1
            log.warning("%s ended a math check: %.100r for %.100r", verdict.reason, answer, target)
            if verdict.cause == "answer":
                return False
            faults.count("verifier_faults")
            blamed = blamed and verdict.cause == "unclear"
            end = verdict
        if blamed and self._works():
            return False
        raise VerifierError(
            f"the workers of the math verifier failed {_ATTEMPTS} times in one check, the last time because "
            f"of {end.reason}; check whether the machine is out of memory"
        )

    def _works(self) -> bool:
        """Return whether a worker judges a known pair correctly."""
        try:
            worker = self._take()
        except _NotStarted:
            return False
        if worker.ask(*_KNOWN, self.time_limit) is True:
            self._idle.append(worker)
            return True
        worker.kill()
        return False

    def _take(self) -> _CheckerProcess:
        while self._idle:
            worker = self._idle.pop()
            if worker.alive():
                return worker
            worker.kill()
        return _CheckerProcess(self.memory)

    def close(self) -> None:
        """Stop the workers; a later check starts new ones."""
        while self._idle:
            self._idle.pop().kill()


class _NotStarted(Exception):
    """A worker could not start; the message has the reason."""


class _Ended(NamedTuple):
    """Why a worker gave no verdict, and whether the answer was the cause."""

    reason: str
    cause: Literal["answer", "outside", "unclear"]


def _start(memory: int) -> subprocess.Popen[bytes]:
    worker = main_of("areal.rewards.math_worker")
    return start_process(
        [sys.executable, "-I", "-c", worker, str(memory), str(os.getpid())],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"},
        # Ctrl-C must reach only the run, which ends its workers in order.
        start_new_session=True,
    )


class _CheckerProcess:
    """One process of :mod:`areal.rewards.math_worker`."""

    def __init__(self, memory: int) -> None:
        try:
            self._process = _start(memory)
        except OSError as error:  # this host has no more processes, descriptors or memory
            raise _NotStarted(f"a worker that did not start ({error})") from error
        if self._line(_STARTUP_LIMIT) != b"ready\n":
            self.kill()
            raise _NotStarted(
                f"a worker that did not start ({how_ended(self._process.wait())}: is math-verify "
                f"installed? Try `{sys.executable} -c 'import math_verify'`)"
            )

    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, answer: str, target: str, time_limit: float) -> bool | _Ended:
        """Return the verdict, or the reason why the check ended."""
        assert self._process.stdin is not None
        try:
            job = json.dumps({"answer": answer, "target": target, "limit": time_limit}) + "\n"
            self._process.stdin.write(job.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            return _Ended("the death of its worker", "outside")
        line = self._line(time_limit * _PATIENCE)
        if line in (b"true\n", b"false\n"):
            return line == b"true\n"
        if self.alive():
            return _Ended("a suspended machine, or a stop", "outside")
        return self._how_it_died()

    def _how_it_died(self) -> _Ended:
        code = self._process.returncode
        if code == -signal.SIGPROF:
            return _Ended("its time limit", "answer")
        reason = f"the death of its worker ({how_ended(code)})"
        if -code in FROM_OUTSIDE:
            return _Ended(reason, "outside")
        # Either the answer or a problem of the host may cause a crash or a system error.
        return _Ended(reason, "unclear" if code < 0 or code == TROUBLE else "answer")

    def _line(self, seconds: float) -> bytes:
        """Return one line, or the part that was written when the time is up or the output ends."""
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + seconds
        line, stopped = b"", 0
        while not line.endswith(b"\n"):
            # Look at least once after the time limit, because this process may have been stopped meanwhile.
            left = max(0.0, deadline - time.monotonic())
            if not select.select([descriptor], [], [], min(left, _LOOK))[0]:
                stopped = stopped + 1 if self._is_stopped() else 0
                if left > 0 and stopped < _LOOKS:
                    continue
                return line
            read = os.read(descriptor, 4096)
            if not read:
                # The end of the output comes just before the end of the process.
                self._process.wait()
                return line
            line += read
        return line

    def _is_stopped(self) -> bool:
        """Return whether a signal has stopped it, so that it will never answer."""
        try:
            stat = Path(f"/proc/{self._process.pid}/stat").read_text()
        except OSError:  # another system than Linux, or it has just ended
            return False
        return stat.rpartition(")")[2].split()[0] == "T"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # the worker died before it received its job
                    pipe.close()


def _depth(text: str) -> int:
    """Return the maximum nesting of parentheses of any kind."""
    steps = (1 if mark in "([{" else -1 for mark in text if mark in "()[]{}")
    return max(accumulate(steps), default=0)


_shared = MathVerifier()


def shared_verifier() -> MathVerifier:
    """Return the verifier of this process, whose workers all environments share."""
    return _shared
