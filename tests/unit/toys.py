"""Toy workers, and functions that are called with one; other processes import them from here."""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path

from areal.errors import UserError, WorkerLost
from areal.lifetime import end_of_crashes
from areal.waiting import Work
from areal.workers import process
from areal.workers.attach import Address, attach


class Foreign(Exception):
    """An error that the other side cannot be given as it is: it has no text of its own."""

    def __init__(self, number: int, text: str) -> None:
        super().__init__(f"{number}: {text}")


class Toy:
    """Notes what it does; plain methods do one thing after another, async ones go on beside them."""

    def __init__(self, start: int = 0) -> None:
        if start < 0:
            raise UserError("start below 0: give another")
        self.notes: list[str] = []
        self.count = start

    def add(self, number: int = 1) -> int:
        self.count += number
        return self.count

    def work(self, seconds: float, note: str) -> None:
        time.sleep(seconds)
        self.notes.append(note)

    async def take(self, note: str) -> None:
        self.notes.append(note)

    def recurse(self, seconds: float) -> None:
        """Have threads whose stacks change all the time."""
        end = time.monotonic() + seconds

        def deeper(depth: int) -> None:
            if depth and time.monotonic() < end:
                [deeper(depth - 1) for _ in range(2)]

        def again() -> None:
            while time.monotonic() < end:
                deeper(8)

        others = [threading.Thread(target=again) for _ in range(3)]
        for each in others:
            each.start()
        again()
        for each in others:
            each.join()

    def await_note(self, note: str, then: str) -> None:
        while note not in self.notes:
            time.sleep(0.001)
        self.notes.append(then)

    async def wait(self, note: str) -> None:
        try:
            await asyncio.sleep(1000)
        except asyncio.CancelledError:
            self.notes.append(f"{note} cancelled")
            raise

    async def seen(self) -> list[str]:
        return self.notes

    def echo(self, content: bytes) -> bytes:
        return content

    def fail(self, kind: str) -> None:
        if kind == "user":
            raise UserError("give another number")
        if kind == "python":
            raise FileNotFoundError(2, "nothing there", "somewhere")
        if kind == "end":
            os._exit(7)
        raise Foreign(3, "not mine")

    async def cancels_itself(self) -> None:
        raise asyncio.CancelledError

    def not_portable(self) -> object:
        return lambda: None

    def about(self) -> dict[str, object]:
        return {
            "pid": os.getpid(),
            "name": Path("/proc/self/cmdline").read_text().split("\0")[0],
            "session": os.getsid(0),
            "given": os.environ.get("AREAL_TOY"),
            "main": getattr(sys.modules["__main__"], "__file__", None),
            "heavy": sorted({"torch", "vllm", "transformers"} & set(sys.modules)),
        }

    def fork(self) -> int:
        child = os.fork()
        if child == 0:
            time.sleep(1000)
        return child

    def spawn(self) -> int:
        child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(1000,))
        child.start()
        assert child.pid is not None
        return child.pid

    def stop(self, pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)

    def hold(self) -> None:
        """Wait in native code that keeps Python's lock."""
        ctypes.PyDLL(None).sleep(1000)

    def compute(self, seconds: float) -> int:
        """Compute for about so long in native code that keeps Python's lock."""
        begun = time.monotonic()
        sum(range(1_000_000))
        return sum(range(int(1_000_000 * seconds / (time.monotonic() - begun))))


class Counting(Toy):
    """Has one piece of work, whose progress is what it has counted."""

    def progress(self) -> Work:
        return Work(self.count, "numbers", 1, 0)


class Owner(Toy):
    """Has workers of its own."""

    async def own(self, count: int) -> list[int]:
        self.workers = [await process.launch(f"toy {number}", {}, Toy) for number in range(count)]
        return [worker.pid for worker in self.workers]


class LouderToy(Toy):
    """Overrides a method that callers name by the class that they know."""

    def add(self, number: int = 1) -> int:
        return super().add(100 * number)


class Closing(Toy):
    """Leaves a file when it is closed."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def close(self) -> None:
        self.path.write_text(" ".join(self.notes))


async def never_made() -> Toy:
    await asyncio.Event().wait()
    return Toy()


async def made_late(start: int) -> Toy:
    await asyncio.sleep(0.01)
    return Toy(start)


def doubled(toy: Toy, more: int) -> int:
    return 2 * toy.count + more


class Rank:
    """One of several, which wait for each other as in a collective."""

    def __init__(self, rank: int, folder: Path) -> None:
        self.rank, self.folder = rank, folder

    def meet(self, name: str, ranks: int = 2) -> int:
        (self.folder / f"{name}-{self.rank}").touch()
        while len(list(self.folder.glob(f"{name}-*"))) < ranks:
            time.sleep(0.01)
        return self.rank

    def fail(self, which: tuple[int, ...], then_wait: bool = False, lost: str = "") -> int:
        if self.rank in which and lost:
            raise WorkerLost(lost)
        if self.rank in which:
            raise ValueError("a wrong number")
        while then_wait:
            time.sleep(0.01)
        return self.rank

    def pid(self) -> int:
        return os.getpid()


def crash(toy: Toy) -> None:
    """Crash, after a library has put a handler there that never ends."""
    libc = ctypes.CDLL(None)
    libc.signal(signal.SIGSEGV, ctypes.cast(libc.pause, ctypes.c_void_p))
    end_of_crashes()
    ctypes.string_at(0)


async def fails_later(toy: Toy, kind: str) -> None:
    toy.fail(kind)


async def noted(toy: Toy, note: str) -> None:
    toy.notes.append(note)
    await toy.wait(note)


async def waits_elsewhere(toy: Toy, address: Address, note: str) -> None:
    await (await attach(address)).call(noted, note)
