"""The stacks of this process: its threads, and the tasks of its event loop."""

from __future__ import annotations

import asyncio
import faulthandler
import tempfile
from collections.abc import Iterator
from typing import Any


def own_stacks() -> str:
    """Return the stack of each thread and each task."""
    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        threads = file.read()
    tasks = "\n".join(f"task {task.get_name()}: {' → '.join(_places(task.get_coro()))}" for task in _tasks())
    return f"{threads}\n{tasks}\n"


def _tasks() -> list[asyncio.Task[Any]]:
    return sorted(asyncio.all_tasks(), key=asyncio.Task.get_name)


def _places(coroutine: Any) -> Iterator[str]:
    """Yield where a coroutine waits, and where the coroutines wait that it awaits, outermost first."""
    while (frame := getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)) is not None:
        file = frame.f_code.co_filename
        if "/asyncio/" not in file:
            yield f"{frame.f_code.co_qualname} ({'/'.join(file.split('/')[-2:])}:{frame.f_lineno})"
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
