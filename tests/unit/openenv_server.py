"""Serves environments by OpenEnv's own classes, each at a path: ``python openenv_server.py PORT [DOWN]``.

When it has died it comes back, but not while there is a file DOWN.
"""

from __future__ import annotations

import os
import random
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI
from openenv.core.env_server import Action, Environment, Observation, State, create_fastapi_app
from openenv.core.env_server.mcp_environment import MCPEnvironment
from openenv.core.env_server.mcp_types import CallToolAction, CallToolObservation


class Say(Action):
    text: str


class Heard(Observation):
    said: str


class Base(Environment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    @property
    def state(self) -> State:
        return State()


class Sums(Base):
    """Two sums, each worth a half; the text may also be an order."""

    sleeps = 30.0

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Heard:
        self.rng = random.Random(seed)
        self.left = 2
        return Heard(said=self.ask())

    def ask(self) -> str:
        a, b = self.rng.randint(0, 9), self.rng.randint(0, 9)
        self.right = a + b
        return f"Compute {a} + {b}.\nPut the final answer in \\boxed{{}}."

    def step(self, action: Say, timeout_s: float | None = None, **kwargs: Any) -> Heard:
        if action.text == "raise":
            raise ZeroDivisionError("by zero")
        if action.text == "sleep":
            time.sleep(self.sleeps)
        if action.text == "die":
            os._exit(1)
        self.left -= 1
        right = action.text.strip().removeprefix("\\boxed{").removesuffix("}") == str(self.right)
        return Heard(said=self.ask() if self.left else "", reward=right / 2, done=not self.left)


class Move(StrEnum):
    UP = "up"
    DOWN = "down"


class Moves(Action):
    kind: Literal["move"]
    move: Move | None = None
    speed: int = 1


class Seen(Observation):
    board: list[list[int]]
    hint: str | None = None
    truncated: bool = False


class Board(Base):
    """Never ends by itself; no seed."""

    def reset(self) -> Seen:
        return Seen(board=[[0, 1]])

    def step(self, action: Moves, **kwargs: Any) -> Seen:
        speed = action.speed * (1 if action.move == "up" else -1)
        return Seen(board=[[speed]], hint="ü", reward=None, done=speed > 1, truncated=speed > 1)


class OneBoard(Board):
    SUPPORTS_CONCURRENT_SESSIONS = False


class Short(Action):
    name: str
    word: str


def strict(**limits: Any) -> type[Action]:
    from pydantic import Field

    return type("Strict", (Action,), {"__annotations__": {"word": str}, "word": Field(..., **limits)})


class Words(Base):
    def reset(self, seed: int | None = None, **kwargs: Any) -> Heard:
        return Heard(said=f"say {sorted(kwargs)}")

    def step(self, action: Any, **kwargs: Any) -> Heard:
        return Heard(said=f"{action.model_dump(exclude={'metadata'})}", reward=True, done=True)


class Alone(Sums):
    SUPPORTS_CONCURRENT_SESSIONS = False


class Tools(MCPEnvironment):
    SUPPORTS_CONCURRENT_SESSIONS = True

    def __init__(self) -> None:
        from fastmcp import FastMCP

        server = FastMCP("tools")

        @server.tool
        def shout(text: str) -> str:
            return text.upper()

        super().__init__(server)

    def reset(self, seed: int | None = None, episode_id: str | None = None, **kwargs: Any) -> Observation:
        return Observation()

    def _step_impl(self, action: Action, timeout_s: float | None = None, **kwargs: Any) -> Observation:
        raise ValueError("no tool")

    @property
    def state(self) -> State:
        return State()


class Broken(Base):
    def __init__(self) -> None:
        raise OSError("no data here")

    def reset(self, **kwargs: Any) -> Heard: ...
    def step(self, action: Say, **kwargs: Any) -> Heard: ...


SERVED: dict[str, tuple[Any, type[Action], type[Observation], int]] = {
    "sums": (Sums, Say, Heard, 256),
    "board": (Board, Moves, Seen, 64),
    "one-board": (OneBoard, Moves, Seen, 1),
    "two": (Words, Short, Heard, 64),
    "strict": (Words, strict(min_length=2, max_length=5), Heard, 64),
    "alone": (Alone, Say, Heard, 1),
    "tools": (Tools, CallToolAction, CallToolObservation, 64),
    "broken": (Broken, Say, Heard, 64),
}

if __name__ == "__main__":
    while True:  # a server that has died comes back
        if (child := os.fork()) == 0:
            app = FastAPI()
            for path, served in SERVED.items():
                app.mount(f"/{path}", create_fastapi_app(*served))
            uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), log_level="critical")
            os._exit(1)
        os.waitpid(child, 0)
        while any(Path(down).exists() for down in sys.argv[2:]):
            time.sleep(0.05)
