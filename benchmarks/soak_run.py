"""Starts, watches, resumes and stops the training run of soak.py."""

from __future__ import annotations

import contextlib
import math
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import check_run
import psutil
from run_files import Record, read_lines

AREAL = [sys.executable, "-m", "areal"]
SILENCE = 6.0
"""Seconds without a heartbeat after which a part of the run counts as frozen."""
SETTINGS = [
    f"env={Path(__file__).parent / 'soak_env.py'}:SoakEnv",
    *("recipe=none", "device=cpu", "model=starter", "learner.threads=1", "engine.threads=1"),
    *("rollout.batch_size=32", "rollout.max_staleness=2", "rollout.max_concurrent=16"),
    *("rollout.env_isolation=process", "rollout.env_time_limit=30", "rollout.max_failures=100"),
    *("checkpoint.every=10", f"run.stall_limit={10 * SILENCE}", "run.max_restarts=1000"),
]
PATIENCE = 240.0
"""Maximum seconds for a start or a recovery, which allow for a busy machine."""
_SUSPENDED = 8.0
"""Seconds for which the run itself is stopped before it continues."""
_LOOK = 0.1


class Run:
    """A training run in its own process, which is restarted when it ends.

    Args:
        folder: the folder in which the run directory ``run`` is created.
        settings: further settings, as ``key.sub=value``.

    Attributes:
        starts: the number of processes of the run so far.
        ends: messages on processes that ended without a request, or did not end on request.
        until: the time of ``time.monotonic()`` at which all waiting ends.
    """

    def __init__(self, folder: Path, settings: Sequence[str]) -> None:
        self.folder, self.path, self.journals = folder, folder / "run", folder / "journals"
        self.settings = [*SETTINGS, *settings]
        self.starts, self.until = 0, math.inf
        self.ends: list[str] = []
        self._start("train", f"output={folder}", "name=run", *self.settings)

    def _start(self, *arguments: str) -> None:
        self.starts += 1
        with (self.folder / f"run-{self.starts}.log").open("w") as log:
            self.process = subprocess.Popen(
                [*AREAL, *arguments], stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )

    def resume(self, *settings: str) -> None:
        """Resume the run, and keep a copy of its journal for the checker."""
        self.keep_journal()
        if (self.path / "starts.jsonl").exists():
            self._start("train", "--resume", str(self.path), *settings)
        else:  # it was killed before it had begun
            shutil.rmtree(self.path, ignore_errors=True)
            self._start("train", f"output={self.folder}", "name=run", *self.settings)

    def keep_journal(self) -> None:
        """Copy the journal in its state between two processes of the run."""
        if not (self.path / "journal").exists():
            return
        copy = self.journals / f"{self.starts:03d}"
        copy.mkdir(parents=True)
        shutil.copy(self.path / "journal", copy)
        steps = {int(path.stem[5:]) for path in self.path.glob("rollouts/step-*.jsonl")} & self._made()
        last = next(n for n in range(len(steps) + 1) if n + 1 not in steps)
        (copy / "recorded").write_text(str(last))

    @property
    def updates(self) -> int:
        """The number of the last finished update."""
        return max(self._made(), default=0)

    def _made(self) -> set[int]:
        return {line["step"] for line in read_lines(self.path / "metrics.jsonl") if "loss" in line}

    def events(self, since: float = 0.0) -> list[Record]:
        """Return the events that the run has recorded since a time of ``time.time()``."""
        events = read_lines(self.path / "events.jsonl")
        return [event for event in events if event["time"] >= since]

    def missing(self) -> set[str]:
        """Return the kinds of parts (engine, learner) of which one was lost and has not been replaced."""
        return {part.split()[0] for part in check_run.not_back(self.events())}

    def said(self) -> str:
        """Return the last output line of the process that has ended."""
        lines = (self.folder / f"run-{self.starts}.log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "nothing"

    def family(self) -> list[psutil.Process]:
        """Return the process of the run and all its descendants."""
        try:
            own = psutil.Process(self.process.pid)
            return [own, *own.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def wait(self, what: str, found: Callable[[], bool], seconds: float = PATIENCE) -> float | None:
        """Wait for a condition, resuming the run if it ends; return the seconds taken, None if too long."""
        began = time.monotonic()
        while time.monotonic() < min(began + seconds, self.until):
            if found():
                return time.monotonic() - began
            if self.process.poll() is not None:
                self.ends.append(
                    f"while waiting for {what}: exit code {self.process.returncode}: {self.said()}"
                )
                print(f"  the run ended {self.ends[-1]}", flush=True)
                self.resume()
            time.sleep(_LOOK)
        return None

    def come_back(self, family: list[psutil.Process], suspended: bool) -> int:
        """Continue a killed or stopped run, and return the last update that it had made before.

        Args:
            family: all processes of the run before it was killed.
            suspended: whether the run was stopped rather than killed.
        """
        if suspended:
            time.sleep(_SUSPENDED)
            made = self.updates
            self.process.send_signal(signal.SIGCONT)
            return made
        self.ended(20)
        left = psutil.wait_procs(family[1:], timeout=20)[1]
        self.ends += [f"process {process.pid} outlived the killed run" for process in left]
        made = self.updates
        self.resume()
        return made

    def ended(self, seconds: float) -> bool:
        """Wait for the process to end, and kill it if it takes too long; return whether it ended in time."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.ends.append(f"it did not end within {seconds:.0f} s: {self.said()}")
            self.kill()
            return False
        return True

    def kill(self) -> None:
        """Kill all processes of the run."""
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()

    def go_on(self, seconds: float) -> None:
        """Let the run train for a number of seconds."""
        until = time.monotonic() + seconds
        self.wait("its next death", lambda: time.monotonic() > until, math.inf)

    def stop(self) -> None:
        """Stop the run in an orderly way."""
        self.process.send_signal(signal.SIGINT)
        if self.ended(PATIENCE / 2) and self.process.returncode != 130:
            self.ends.append(f"when it was stopped: exit code {self.process.returncode}: {self.said()}")

    def finish(self) -> None:
        """Resume the stopped run for two more updates, after which it ends."""
        self.resume(f"steps={self.updates + 2}")
        if self.ended(PATIENCE) and self.process.returncode != 0:
            self.ends.append(f"at its end: exit code {self.process.returncode}: {self.said()}")
