"""Toy workers, and functions that are called with one; other processes import them from here."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sys
import time
from pathlib import Path

from areal.errors import UserError


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

    def fail(self, which: tuple[int, ...], then_wait: bool = False) -> int:
        if self.rank in which:
            raise ValueError("a wrong number")
        while then_wait:
            time.sleep(0.01)
        return self.rank

    def pid(self) -> int:
        return os.getpid()
