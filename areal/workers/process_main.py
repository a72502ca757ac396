"""What a worker's process runs (:mod:`areal.workers.process`).

A thread with an event loop reads the calls, runs async methods and answers. Plain methods have the main
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
from collections.abc import Callable
from concurrent.futures import Executor, Future
from functools import partial
from queue import SimpleQueue
from typing import Any

from setproctitle import setproctitle

from areal.errors import UserError, WorkerLost
from areal.lifetime import die_with
from areal.workers.calls import Dispatcher, portable
from areal.workers.messages import Messages, packed, unpacked


def main(descriptor: int, parent: int, name: str) -> None:
    """Serve calls until the other end says to end.

    Args:
        descriptor: of this end of the socket pair.
        parent: the process that started this one, and with which it ends.
        name: of the worker.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the run's process decides what becomes of them
    die_with(parent)
    _children_die_with_us()
    setproctitle(f"areal {name}")
    main_thread = MainThread()

    def serve() -> None:
        try:
            asyncio.run(Server(name, main_thread).serve(socket.socket(fileno=descriptor)))
        except BaseException:  # noqa: BLE001 (a defect: it is printed, and the process ends)
            traceback.print_exc()
            os._exit(1)
        main_thread.shutdown()

    threading.Thread(target=serve, name="areal-calls", daemon=True).start()
    main_thread.run()
    # The worker is closed. What an interpreter does besides at its end takes seconds where torch is loaded.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _children_die_with_us() -> None:
    """Have each process die with this one that it forks or, by multiprocessing, spawns; vLLM does both."""
    sys.modules["__main__"].__spec__ = importlib.util.find_spec("areal.workers.spawned")
    forking: list[int] = []
    os.register_at_fork(
        before=lambda: forking.append(os.getpid()),
        after_in_parent=forking.clear,
        after_in_child=lambda: die_with(forking.pop()),
    )


class MainThread(Executor):
    """Runs what is submitted, one after another, on the thread that calls :meth:`run`."""

    def __init__(self) -> None:
        self._work = SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None]()

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Put a call in the queue; it can be cancelled until it begins."""
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
            except BaseException as failure:  # noqa: BLE001 (it is the caller's)
                future.set_exception(failure)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End :meth:`run` after what is in the queue."""
        self._work.put(None)


class Server:
    """Answers calls; the first one makes the worker."""

    def __init__(self, name: str, plain: Executor) -> None:
        self._name = name
        self._dispatcher = Dispatcher(plain)
        self._running: dict[int, asyncio.Task[None]] = {}

    async def serve(self, end: socket.socket) -> None:
        """Serve until the end; without a word from the other end, there is nobody left to serve."""
        self._messages = await Messages.over(end)
        while (message := await self._messages.receive()) is not None:
            kind, number, body = message
            if kind == "end":
                await self._dispatcher.close()
                await self._messages.flush()
                return
            if kind == "cancel":
                if (task := self._running.get(number)) is not None:
                    task.cancel()
                continue
            task = self._running[number] = asyncio.create_task(self._answer(number, body))
            task.add_done_callback(partial(self._forget, number))
        os._exit(1)

    def _forget(self, number: int, task: asyncio.Task[None]) -> None:
        del self._running[number]

    async def _answer(self, number: int, body: bytes) -> None:
        try:
            function, args, kwargs = unpacked(body)
            run = self._dispatcher.call if number else self._dispatcher.make
            answer = packed(await run(function, *args, **kwargs))
        except BaseException as failure:
            task = asyncio.current_task()
            if task is not None and task.cancelling():  # nobody waits for it
                raise
            if not isinstance(failure, UserError | WorkerLost):
                traceback.print_exception(failure, file=sys.stderr)
            self._messages.send("error", number, packed(portable(failure, self._name)))
        else:
            self._messages.send("answer", number, answer)
