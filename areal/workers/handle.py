"""A handle represents a worker that runs elsewhere.

A worker is a plain class with plain and ``async`` methods, and does not know where it runs. Plain methods run
one after the other, in the order of the calls. Async methods run concurrently with them and with each other.
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
"""The reason for the end of a worker that :meth:`Handle.close` has ended."""


class Handle(Protocol[W_co]):
    """A worker of class ``W_co`` elsewhere.

    Attributes:
        name: name of the worker in messages.
        host: host of the worker; empty: this one.
        ended: done when the worker has ended; the result briefly says how.
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

        If the waiting task is cancelled, an async method is cancelled, too, and a plain one that has not
        begun is dropped. Nobody waits for the other side to notice.

        Args:
            method: a method of the worker's class, such as ``handle.call(Engine.generate, ids)``; if the
                worker's own class overrides it, the override runs. It can also be any other module-level
                function, which receives the worker as its first argument.
            args: arguments of the method.
            kwargs: keyword arguments of the method.

        Raises:
            WorkerLost: the worker has ended, or ends before it answers.
            Exception: the exception of the method, as converted by :func:`areal.workers.calls.portable`.
        """
        ...

    def kill(self) -> None:
        """End the worker at once; callers that wait for it get WorkerLost."""
        ...

    async def close(self, grace: float = 5.0) -> None:
        """Shut down the worker: async calls are cancelled, plain ones finish, then its ``close`` runs.

        A worker that takes longer than ``grace`` seconds is killed.
        """
        ...


class Launch(Protocol):
    """Starts a worker and returns its handle; several workers can start concurrently."""

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
            name: name of the worker in messages.
            environment: its environment variables in addition to our own.
            factory: creates the worker there: a class or a module-level function, plain or async.
            args: arguments of the factory.
            kwargs: keyword arguments of the factory.

        Raises:
            WorkerLost: the worker ended before it was created.
            Exception: the exception of the factory.
        """
        ...


async def side_by_side(*starts: Awaitable[Handle[W]]) -> list[Handle[W]]:
    """Start several workers concurrently; if one cannot be started, none remains."""
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
