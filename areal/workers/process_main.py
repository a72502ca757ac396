"""The main program of a worker's process (:mod:`areal.workers.process`).

A thread with an event loop reads the calls, runs async methods and answers. Plain methods run on the main
thread, which libraries such as torch expect.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Any

from setproctitle import setproctitle

from areal.lifetime import die_with, end_of_crashes, forks_die_with_us
from areal.workers.answers import Callee
from areal.workers.calls import Dispatcher
from areal.workers.early import import_and_wait
from areal.workers.guard import BEAT, beat
from areal.workers.messages import Messages, packed
from areal.workers.vitals import write_stacks_to


def main(descriptor: int, parent: int, name: str, stacks: int, modules: Sequence[str] = ()) -> None:
    """Serve calls until the other end requests the end.

    Args:
        descriptor: descriptor of this end of the socket pair.
        parent: the process that started this one, and with which it ends.
        name: name of the worker.
        stacks: descriptor of the file for stacks.
        modules: modules to import before this process is taken over; empty: it already is.
    """
    write_stacks_to(stacks)
    end_of_crashes()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the run's process decides what to do about these signals
    die_with(parent)
    _children_die_with_us()
    setproctitle(f"areal {name}")
    end = socket.socket(fileno=descriptor)
    if modules:
        import_and_wait(end, modules)
        end_of_crashes()
    main_thread = MainThread()

    def serve() -> None:
        try:
            asyncio.run(Server(name, main_thread).serve(end))
        except BaseException:  # noqa: BLE001 (a defect: it is printed, and the process ends)
            traceback.print_exc()
            os._exit(1)
        main_thread.shutdown()

    threading.Thread(target=serve, name="areal-calls", daemon=True).start()
    main_thread.run()
    # The worker is closed. The interpreter's own shutdown takes seconds if torch is loaded.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _children_die_with_us() -> None:
    """Let each process that this one forks or spawns by multiprocessing die with it; vLLM does both."""
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("areal.workers.spawned")
    forks_die_with_us()


class MainThread(Executor):
    """Runs submitted calls, one after the other, on the thread that calls :meth:`run`."""

    def __init__(self) -> None:
        self._work = SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Queue a call; it can be cancelled until it begins."""
        future: Future[Any] = Future()
        self._work.put((future, lambda: function(*args, **kwargs)))
        return future

    def run(self) -> None:
        """Run calls until :meth:`shutdown`."""
        while (item := self._work.get()) is not None:
            future, function = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except BaseException as failure:  # noqa: BLE001 (it belongs to the caller)
                future.set_exception(failure)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End :meth:`run` after the queued calls."""
        self._work.put(None)


class Server:
    """Answers calls; the first one creates the worker."""

    def __init__(self, name: str, plain: Executor) -> None:
        self._name = name
        self._dispatcher = Dispatcher(plain)

    async def serve(self, end: socket.socket) -> None:
        """Serve until the end; if the other end closes without a message, nobody is left to serve."""
        self._messages = await Messages.over(end)
        callee = Callee(self._name, self._messages, self._run)
        beating = asyncio.create_task(self._beat(), name="beat")
        while (message := await self._messages.receive()) is not None:
            kind, number, body = message
            if kind == "end":
                beating.cancel()
                await self._dispatcher.close()
                await self._messages.flush()
                return
            callee.take(kind, number, body)
        os._exit(1)

    async def _beat(self) -> None:
        while True:
            self._messages.send("beat", 0, packed(beat(self._dispatcher.work())))
            await asyncio.sleep(BEAT)

    async def _run(self, number: int, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        run = self._dispatcher.call if number else self._dispatcher.make
        return await run(function, *args, **kwargs)
