"""Runs trackers beside a run; none of them can stop, block or slow the run.

Each tracker has its own thread and a bounded queue. A tracker that raises is no longer used. Calls that do
not fit into its queue are dropped. The end of the run waits for it only for some seconds. Each of these is
reported once, in one line. Data that a tracker lacks is in the run directory.
"""

from __future__ import annotations

import asyncio
import atexit
import re
import threading
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from areal.config import Config
from areal.disk import write_whole
from areal.errors import UserError, explained, install_hint
from areal.telemetry.scores import finite
from areal.telemetry.trackers.interface import Consumed, Tracker
from areal.threads import CallThread

PATIENCE = 30.0
"""Seconds that the end of a run waits for its trackers."""
PATIENCE_AFTER_FAILURE = 3.0
"""Seconds that it waits if the run was stopped or has failed."""
_QUEUE = 256
"""Maximum number of calls that wait for a tracker."""
_BATCHES = 8
"""Maximum number of updates whose rollouts wait for a tracker, because rollouts need memory."""
_IDS = "trackers"
"""The folder in the run directory with the trackers' ids of the run, one file each."""

_MODULES = {"opentelemetry": "opentelemetry.exporter.otlp.proto.http"}
"""Modules of trackers whose module does not have their name."""


def require_trackers(names: Sequence[str], find: Callable[[str], Any] = find_spec) -> None:
    """Check that trackers are installed, without importing them.

    Args:
        names: names of trackers, which are also names of our extras.
        find: returns a module's spec.

    Raises:
        UserError: one of them is not installed.
    """
    for name in names:
        try:
            spec = find(_MODULES.get(name, name))
        except ModuleNotFoundError:  # its parent package does not exist, either
            spec = None
        if spec is None or spec.origin is None:  # a folder of that name, such as W&B's, is not a module
            raise UserError(
                f"trackers={name} requires the package {name}; install it with {install_hint(name)}"
            )


def make_tracker(name: str, directory: Path) -> Tracker:
    """Return a tracker that has not started.

    Args:
        name: a name from the setting ``trackers``.
        directory: directory of the run.
    """
    from areal.telemetry.trackers import mlflow, opentelemetry, swanlab, tensorboard, trackio, wandb

    classes: dict[str, Callable[[Path], Tracker]] = {
        "tensorboard": tensorboard.TensorBoard,
        "wandb": wandb.Wandb,
        "mlflow": mlflow.Mlflow,
        "trackio": trackio.Trackio,
        "swanlab": swanlab.Swanlab,
        "opentelemetry": opentelemetry.OpenTelemetry,
    }
    return classes[name](directory)


class Trackers:
    """All trackers of a run; there are none before :meth:`start`.

    Args:
        directory: directory of the run.
        say: called on the event loop with a line for the user.
        warn: called on the event loop with a warning.
        make: creates a tracker, given its name and the directory.
        queue: maximum number of calls that wait for a tracker.
    """

    def __init__(
        self,
        directory: Path,
        say: Callable[[str], None],
        warn: Callable[[str], None],
        make: Callable[[str, Path], Tracker] = make_tracker,
        queue: int = _QUEUE,
    ) -> None:
        self._directory, self._say, self._warn, self._make, self._queue = directory, say, warn, make, queue
        self._running: list[_Running] = []

    def start(self, config: Config, version: int) -> None:
        """Start the trackers of the configuration, each on its thread, after update ``version``."""
        loop, here = asyncio.get_running_loop(), threading.current_thread()

        def on_loop(tell: Callable[[str], None]) -> Callable[[str], object]:
            def tell_there(line: str) -> None:
                line = _without_passwords(line)
                if threading.current_thread() is here:
                    tell(line)
                else:
                    loop.call_soon_threadsafe(tell, line)

            return tell_there

        say, warn = on_loop(self._say), on_loop(self._warn)
        plain = config.model_dump(mode="json")
        for name in dict.fromkeys(config.trackers):
            tracker = self._make(name, self._directory)
            running = _Running(name, tracker, self._directory / _IDS / name, say, warn, self._queue)
            running.start(plain, version)
            self._running.append(running)

    def log(self, metrics: dict[str, Any]) -> None:
        """Pass on the finite numbers in a line of ``metrics.jsonl``."""
        numbers = {key: value for key in metrics if (value := finite(metrics, key)) is not None}
        step = int(numbers.pop("step", 0))
        for running in self._running:
            running.do(lambda tracker: tracker.log(step, numbers))

    def rollouts(self, consumed: Consumed) -> None:
        """Pass on the batch of an update, at the interval of each tracker."""
        for running in self._running:
            running.rollouts(consumed)

    async def close(self, succeeded: bool, patience: float = PATIENCE) -> None:
        """End the run in all trackers; those that take longer than ``patience`` seconds are abandoned."""
        running, self._running = self._running, []
        try:
            if running:
                ends = [asyncio.wrap_future(each.finish(succeeded)) for each in running]
                await asyncio.wait(ends, timeout=patience)
        finally:
            for each in running:
                if not each.finished:
                    each.leave()


class _Running:
    """A tracker, its thread and its queue.

    Args:
        name: name of the tracker.
        tracker: the tracker, which is only called from the thread.
        id_file: stores its id of the run.
        say, warn: accept a line from any thread.
        queue: maximum number of waiting calls.
    """

    def __init__(
        self,
        name: str,
        tracker: Tracker,
        id_file: Path,
        say: Callable[[str], object],
        warn: Callable[[str], object],
        queue: int,
    ) -> None:
        self._name, self._tracker, self._id_file, self._say, self._warn = name, tracker, id_file, say, warn
        self._thread = CallThread(f"areal-{name}")
        self._room, self._room_of_batches = threading.Semaphore(queue), threading.Semaphore(_BATCHES)
        self._full = self._left_out = self.finished = False

    def start(self, config: dict[str, Any], version: int) -> None:
        """Start the tracker."""
        self.do(lambda tracker: self._start(tracker, config, version))

    def rollouts(self, consumed: Consumed) -> None:
        """Pass the batch of an update to the tracker, if the tracker's interval includes it."""
        if (consumed.step - 1) % self._tracker.every == 0:
            self.do(lambda tracker: tracker.rollouts(consumed), self._room_of_batches)

    def do(self, work: Callable[[Tracker], None], room: threading.Semaphore | None = None) -> None:
        """Run work on the thread, after all earlier work; drop it if there is no room for it."""
        room = room or self._room
        if room.acquire(blocking=False):
            self._thread.start(partial(self._do, work, room.release))
        elif not (self._full or self._left_out):
            self._full = True
            self._warn(f"{self._name} is too slow to receive the whole run; metrics.jsonl has all of it")

    def finish(self, succeeded: bool) -> Any:
        """Begin to end the run in the tracker; return a future of its end or failure."""

        def finish(tracker: Tracker) -> None:
            tracker.finish(succeeded)
            self.finished = True

        done = self._thread.start(partial(self._do, finish))
        self._thread.end()
        return done

    def leave(self) -> None:
        """Abandon a tracker that has not ended, including its package's exit functions."""
        if not self._left_out:
            self._left_out = True
            self._warn(
                f"{self._name} has not received the whole run in time, and the run ends without it; "
                "metrics.jsonl has all of it"
            )
        atexit.unregister(_Of(self._name))  # type: ignore[arg-type]

    # The methods below run on the thread.

    def _do(self, work: Callable[[Tracker], None], done: Callable[[], None] = lambda: None) -> None:
        try:
            if not self._left_out:
                work(self._tracker)
        # Third-party packages may raise anything, and nothing of it should end a run. The thread belongs to
        # the tracker, so no Ctrl-C or exit of the process is lost here.
        except BaseException as error:  # noqa: BLE001
            self._left_out = True
            self._warn(f"{self._name} failed, and the run continues without it: {explained(error, __file__)}")
        finally:
            done()

    def _start(self, tracker: Tracker, config: dict[str, Any], version: int) -> None:
        known = self._id_file.read_text(encoding="utf-8") if self._id_file.exists() else None
        run_id = tracker.start(config, known, version)
        self._id_file.parent.mkdir(exist_ok=True)
        write_whole(self._id_file, [run_id])
        self._say(f"{self._name}: {tracker.link}")


def _without_passwords(line: str) -> str:
    """Return a line without the credentials in its URLs, between ``//`` and ``@``."""
    return re.sub(r"//[^/\s@]+@", "//", line)


class _Of:
    """Equals each function of a package, for ``atexit.unregister``; some of them wait for their servers."""

    def __init__(self, package: str) -> None:
        self._package = package

    def __eq__(self, other: object) -> bool:
        return (getattr(other, "__module__", None) or "").partition(".")[0] == self._package

    __hash__ = None  # type: ignore[assignment]
