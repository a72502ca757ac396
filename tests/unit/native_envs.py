"""Environments whose native code hangs or crashes, and others that are hard on whoever calls them."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import gymnasium

from areal.envs.text import UnicodeText

LIBC = ctypes.PyDLL(None)  # keeps the interpreter's lock


class Board:
    """Something that only this process knows by name."""

    def __reduce__(self) -> Any:
        return Board, ()


class Native(gymnasium.Env[str, str]):
    """Does what the seed of its reset says, at its first step; counts its steps."""

    observation_space = UnicodeText(100)
    action_space = UnicodeText(100)
    metadata: ClassVar[dict[str, Any]] = {"isolation": "process", "render_modes": []}

    def __init__(self, notes: str = "") -> None:
        self.steps = 0
        self.notes = notes

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict]:
        super().reset(seed=seed)
        self.todo = (options or {}).get("todo", "")
        if self.todo == "reset fails":
            raise KeyError("no such\nlevel")
        return f"Say something to {os.getpid()}.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        self.steps += 1
        ACTIONS.get(self.todo, lambda: None)()
        info: dict[str, Any] = {"pid": os.getpid(), "steps": self.steps}
        if self.todo == "lock":
            info["deep"] = {"state": {"lock": threading.Lock()}}
        return "", float(self.steps), True, False, info

    def close(self) -> None:
        if self.notes:
            with Path(self.notes).open("a") as notes:
                notes.write("closed\n")


def raises() -> None:
    """Fail in Python."""
    raise ValueError("no\nluck")


def grow() -> None:
    """Use up all the memory that the process may take."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
    held = [bytearray(100 << 20) for _ in range(100)]
    held.clear()


ACTIONS: dict[str, Callable[[], Any]] = {
    "hangs with the lock": lambda: LIBC.sleep(1000),
    "crashes": lambda: ctypes.string_at(0),
    "aborts": os.abort,
    "is killed": lambda: os.kill(os.getpid(), 9),
    "ends its process": lambda: os._exit(3),
    "exits": lambda: exit(0),
    "raises": raises,
    "grows": grow,
}
