"""A handle stands for a worker that runs elsewhere.

A worker is a plain class with plain and ``async`` methods; it does not know where it runs. Plain methods run
one after another, in the order of the calls. Async methods run beside them, and beside each other.
A launcher (:mod:`areal.workers.inline`, :mod:`areal.workers.process`) starts a worker and returns its handle.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, overload

P = ParamSpec("P")
T = TypeVar("T")
W = TypeVar("W")
W_co = TypeVar("W_co", covariant=True)

CLOSED = "it was closed"
"""The reason for which a worker ended that :meth:`Handle.close` has ended."""


class Handle(Protocol[W_co]):
    """A worker of class ``W_co`` elsewhere.

    Attributes:
        name: how the worker is called in messages.
        host: the one where it is; empty: this one.
        ended: done when the worker has ended; the result says how, in a few words.
    """

    name: str
    host: str
    ended: asyncio.Future[str]

    @overload
    async def call(
        self,
        method: Callable[Concatenate[W_co, P], Coroutine[Any, Any, T]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T: ...

    @overload
    async def call(
        self, method: Callable[Concatenate[W_co, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T: ...

    async def call(self, method: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the worker and return its result.

        When the waiting task is cancelled, an async method is cancelled, too, and a plain one that has not
        begun is dropped. Nobody waits for the other side to notice.

        Args:
            method: of the worker's class, as in ``handle.call(Engine.generate, ids)``; an override by the
                worker's own class is what runs. Any other function of a module will do, too; it is called
                with the worker first.
            args: for the method.
            kwargs: for the method.

        Raises:
            WorkerLost: the worker has ended, or ends before it answers.
            Exception: what the method raised, as :func:`areal.workers.calls.portable` has it.
        """
        ...

    def kill(self) -> None:
        """End the worker at once; whoever waits for it gets WorkerLost."""
        ...

    async def close(self, grace: float = 5.0) -> None:
        """End the worker in order: async calls are cancelled, plain ones finish, then its ``close`` runs.

        A worker that takes longer than ``grace`` seconds is killed.
        """
        ...


class Launch(Protocol):
    """Starts a worker and returns its handle; several can start side by side."""

    @overload
    async def __call__(
        self,
        name: str,
        environment: Mapping[str, str],
        factory: Callable[P, Awaitable[W]],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Handle[W]: ...

    @overload
    async def __call__(
        self,
        name: str,
        environment: Mapping[str, str],
        factory: Callable[P, W],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Handle[W]: ...

    async def __call__(
        self, name: str, environment: Mapping[str, str], factory: Any, *args: Any, **kwargs: Any
    ) -> Any:
        """Start a worker.

        Args:
            name: how the worker is called in messages.
            environment: variables that it has besides our own.
            factory: makes the worker there: a class or a function of a module, plain or async.
            args: for the factory.
            kwargs: for the factory.

        Raises:
            WorkerLost: the worker ended before it was made.
            Exception: what the factory raised.
        """
        ...


async def side_by_side(*starts: Awaitable[Handle[W]]) -> list[Handle[W]]:
    """Start several workers at the same time; if one cannot be started, none is left."""
    tasks = [asyncio.ensure_future(start) for start in starts]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        for found in await asyncio.gather(*tasks, return_exceptions=True):
            if not isinstance(found, BaseException):
                found.kill()
        raise
