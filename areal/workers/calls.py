"""Runs calls beside the worker, in any process; all launchers share this part."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import traceback
from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial
from typing import Any

from areal.errors import UserError, WorkerLost
from areal.waiting import Work

_TRAVELLING = ("builtins", "areal")
"""Packages whose exceptions are the same in every process."""


class Dispatcher:
    """Creates a worker and runs calls of it: async methods on this event loop, plain ones on an executor.

    Cancelling the task that waits for a call cancels the call.

    Args:
        plain: runs plain methods, one after the other.
    """

    def __init__(self, plain: Executor) -> None:
        self._plain = plain
        self._worker: Any = None
        self._beside: set[asyncio.Task[Any]] = set()

    async def make(self, factory: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Create the worker."""
        self._worker = await self._run(factory, *args, **kwargs)

    async def call(self, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a method of the worker, as :meth:`areal.workers.handle.Handle.call` says."""
        name = getattr(method, "__name__", "")
        inherited = any(vars(kind).get(name) is method for kind in type(self._worker).__mro__)
        bound = getattr(self._worker, name) if inherited else partial(method, self._worker)
        return await self._run(bound, *args, **kwargs)

    def work(self) -> Work | None:
        """Return the worker's completed and outstanding work, if its class has a method ``progress``."""
        return self._worker.progress() if hasattr(self._worker, "progress") else None

    async def close(self) -> None:
        """Cancel async calls; after all plain ones, call the worker's own ``close``, if it has one."""
        beside = list(self._beside)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await self._run(getattr(self._worker, "close", int))

    async def _run(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not inspect.iscoroutinefunction(function):
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._plain, partial(function, *args, **kwargs))
        task = asyncio.current_task()
        assert task is not None
        self._beside.add(task)
        try:
            return await function(*args, **kwargs)
        finally:
            self._beside.discard(task)


def portable(failure: BaseException, name: str) -> Exception:
    """Return an error in a form that another process can load, with a note of its origin.

    Errors of areal and of Python keep their class; any other error becomes a RuntimeError that names its
    class. A UserError or WorkerLost has a one-line message, and gets no note.

    Args:
        failure: the exception of a worker.
        name: name of the worker.
    """
    if isinstance(failure, UserError | WorkerLost):
        return failure
    found: Exception = RuntimeError(f"{type(failure).__qualname__}: {failure}")
    if isinstance(failure, Exception) and _travels(failure):
        found = failure
    found.add_note(f"In {name}:\n{''.join(traceback.format_exception(failure))}")
    return found


def _travels(failure: Exception) -> bool:
    if type(failure).__module__.partition(".")[0] not in _TRAVELLING or isinstance(failure, ExceptionGroup):
        return False
    try:  # its attributes other than the message may be anything
        return type(pickle.loads(pickle.dumps(failure))) is type(failure)
    except (pickle.PicklingError, TypeError, AttributeError):
        return False
