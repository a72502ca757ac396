"""The engines of a run as one :class:`areal.rollout.engine.Engine`. Engines may join, leave, and be lost.

Requests of one task (members of a group, turns of their conversations) go to an engine whose prefix cache
contains their beginning; see :mod:`areal.rollout.router`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar
from weakref import WeakSet
from zlib import crc32

from areal.errors import EngineLost, TransferFailed, WrongNumbers
from areal.images import Image
from areal.rollout.engine import Completion, Partial, Sampling, SingleEngine
from areal.rollout.router import Router
from areal.waiting import cancel

T = TypeVar("T")

_BEGINNING = 64
"""Number of first tokens by which requests count as similar, if their task is not known."""
_SILENCE = 3.0
"""Seconds without a heartbeat after which an engine counts as frozen; a long prompt takes less."""


class Engines:
    """Spreads requests over several engines with the same model.

    If an engine is lost, its requests continue elsewhere from the tokens that are known. If there is no other
    engine, they wait for one.

    Args:
        engines: the engines by their names.
        in_turn: whether they load new weights one after the other, in this order; if not, all at once.

    Attributes:
        engines: the present engines by their names.
        requests: number of requests that each engine has received so far.
        on_lost: called with name, engine and error when an engine is lost and has been removed. None: the
            loss of an engine ends everything, and every later call raises its error.
        on_loaded: called with name, version, digest and the seconds of the pause when an engine has loaded
            these weights.
        continued: number of requests that continued elsewhere from their tokens.
        restarted: number of requests that began again elsewhere: none of their tokens were known; or the
            engine computed wrong results, so that they could not be trusted; or their sampling cannot be
            divided (:attr:`Sampling.is_divisible`).
        outages: number of times at which requests may have begun or ceased to wait for long: an engine was
            lost, stalled or joined, a load failed, or engines were connected again.
    """

    on_lost: Callable[[str, SingleEngine, EngineLost], None] | None = None
    on_loaded: Callable[[str, int, str, float], None] = staticmethod(lambda *loaded: None)

    def __init__(self, engines: Mapping[str, SingleEngine], in_turn: bool = False) -> None:
        self.engines = dict(engines)
        self._in_turn = in_turn
        self._router = Router(engines)
        self._error: EngineLost | None = None
        self._running: dict[str, set[asyncio.Timeout]] = {name: set() for name in engines}
        self._finished = asyncio.Event()
        self._joined = asyncio.Event()
        self.requests = dict.fromkeys(engines, 0)
        self.continued = self.restarted = self.outages = 0
        self._version = 0  # of the weights, if there is no engine
        self._distrusted = WeakSet[Any]()  # engines that were lost because they computed wrong results
        self._busy, self._busy_before = 0.0, dict.fromkeys(engines, 0.0)
        for name, engine in engines.items():
            engine.watch(partial(self._lose, name, engine))

    @property
    def in_flight(self) -> Mapping[str, int]:
        """Number of requests in flight on each engine."""
        return {name: len(running) for name, running in self._running.items()}

    @property
    def leaving(self) -> set[str]:
        """Names of the engines that get no new requests."""
        return self.engines.keys() - self._router.in_flight.keys()

    @property
    def version(self) -> int:
        """The version of the weights that all engines have, or a later one."""
        return min((engine.version for engine in self.engines.values()), default=self._version)

    @property
    def busy_seconds(self) -> float:
        """Mean number of seconds so far in which an engine was generating."""
        since = (busy - self._busy_before[name] for name, busy in self._busy_now().items())
        return self._busy + sum(since) / max(1, len(self.engines))

    def counts(self) -> dict[str, float]:
        """Return how many requests continued elsewhere so far, under the names of a run's metrics."""
        return {"rollout/continued": float(self.continued), "rollout/restarted": float(self.restarted)}

    def add(self, name: str, engine: SingleEngine) -> None:
        """Give requests to one more engine.

        Raises:
            ValueError: the engine has older weights than the others, or its name is taken.
        """
        if name in self.engines or (self.engines and engine.version < self.version):
            raise ValueError(f"{name} of version {engine.version} cannot join version {self.version}")
        busy = self.busy_seconds
        self.engines[name], self._running[name] = engine, set()
        self.requests.setdefault(name, 0)
        self._router.add(name)
        self._busy, self._busy_before = busy, self._busy_now()
        self.outages += 1
        engine.watch(partial(self._lose, name, engine))
        self._joined.set()

    def retire(self, name: str) -> None:
        """Stop sending new requests to an engine."""
        self._router.remove(name)

    async def drain(self, name: str, patience: float | None = None) -> None:
        """Wait until a retired engine has no requests in flight. It still loads new weights.

        Args:
            name: the name of the engine.
            patience: seconds after which its requests continue on other engines; None: never.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self._until_idle(name)
        for limit in self._running.get(name, ()):
            limit.reschedule(0)
        await self._until_idle(name)

    async def _until_idle(self, name: str) -> None:
        while self._running.get(name):
            self._finished.clear()
            await self._finished.wait()

    def remove(self, name: str) -> SingleEngine:
        """Remove a drained engine, and return it. No load may be in progress."""
        assert name in self.leaving, f"{name} still receives requests"
        assert not self._running[name], f"{name} has requests in flight"
        return self._take_out(name)

    def _take_out(self, name: str) -> SingleEngine:
        busy = self.busy_seconds
        engine = self.engines.pop(name)
        del self._running[name]
        self._busy, self._busy_before = busy, self._busy_now()
        return engine

    def lose(self, name: str, error: EngineLost) -> None:
        """Remove a lost engine. Its requests in flight have failed, or are about to fail."""
        if (engine := self.engines.get(name)) is not None:
            self._lose(name, engine, error)

    def _lose(self, name: str, engine: SingleEngine, error: EngineLost) -> None:
        """Remove a lost engine, unless that has already happened."""
        if self.engines.get(name) is not engine:
            return
        if isinstance(error, WrongNumbers):
            self._distrusted.add(engine)
        self.outages += 1
        if self.on_lost is None:
            self._error = self._error or error
            self._joined.set()  # no other engine will join
            return
        if name in self._router.in_flight:
            self._router.remove(name)
        self._take_out(name)
        self._finished.set()
        self.on_lost(name, engine, error)

    def _busy_now(self) -> dict[str, float]:
        return {name: engine.busy_seconds for name, engine in self.engines.items()}

    async def generate(
        self, ids: list[int], sampling: Sampling, *, images: Sequence[Image] = ()
    ) -> Completion:
        """Continue ``ids`` on one of the engines; see :class:`areal.rollout.engine.Engine`."""
        # The hash of integers is the same in every process.
        return (await self.generate_near(hash(tuple(ids[:_BEGINNING])), "", ids, sampling, images))[0]

    async def generate_near(
        self, key: int, last: str, ids: list[int], sampling: Sampling, images: Sequence[Image] = ()
    ) -> tuple[Completion, str]:
        """Continue ``ids`` where the prefix cache knows them; see :meth:`areal.rollout.router.Router.start`.

        If the engine is lost or leaves during this time, the request continues on another one. The known
        tokens become part of the prompt there, and each keeps its version and its log-probability.

        Returns:
            The completion, and the name of the engine that finished it.
        """
        sampled = Partial()
        while True:
            which = await self._start(key, last)
            more = Partial()
            rest = replace(sampling, max_tokens=sampling.max_tokens - len(sampled.ids))
            completion = await self._try(which, ids + sampled.ids, rest, more, images)
            if completion is not None:
                sampled.extend(completion)
                # Tokens that were sampled elsewhere are a prompt here, and need experts, too.
                return replace(
                    completion, ids=sampled.ids, logprobs=sampled.logprobs, versions=sampled.versions
                ), which
            if not sampling.is_divisible:
                more.clear()
            sampled.extend(more)
            self.continued += bool(sampled.ids)
            self.restarted += not sampled.ids
            if len(sampled.ids) == sampling.max_tokens:
                return Completion(sampled.ids, sampled.logprobs, sampled.versions, "length"), which

    async def _start(self, key: int, last: str) -> str:
        """Choose an engine; wait for one if there is none."""
        await self.until_there()
        which = self._router.start(key, last)
        self.requests[which] += 1
        return which

    async def until_there(self) -> None:
        """Wait until there is an engine that accepts requests."""
        self._check()
        while not self._router.in_flight:
            self._joined.clear()
            await self._joined.wait()
            self._check()

    async def _try(
        self, which: str, ids: list[int], sampling: Sampling, more: Partial, images: Sequence[Image]
    ) -> Completion | None:
        """Return an engine's completion; None: the engine is lost or leaves, and has sampled ``more``."""
        engine, running = self.engines[which], self._running[which]
        limit = asyncio.timeout(None)
        running.add(limit)
        try:
            async with limit:
                return await engine.generate(ids, sampling, more, images=images)
        except TimeoutError:
            if not limit.expired():
                raise
        except EngineLost as error:
            leaving = which in self.leaving
            self._lose(which, engine, error)
            if self._error is not None and not leaving:
                raise
            if engine in self._distrusted:
                more.clear()
        finally:
            running.discard(limit)
            if self.engines.get(which) is engine:  # otherwise another engine may now have this name
                self._router.finish(which)
            self._finished.set()
        return None

    def of_task(self, task: dict[str, Any]) -> EpisodeEngines:
        """Return the engines from the perspective of an episode of a task."""
        return EpisodeEngines(self, crc32(repr(task).encode()))

    async def connect(self, init_infos: list[dict[str, Any]]) -> None:
        """Open each engine's end of the weight transfer; without infos, close all of them."""
        if not init_infos:
            closing = (engine.connect([]) for engine in self.engines.values())
            await asyncio.gather(*closing, return_exceptions=True)  # a lost engine is noticed elsewhere
            return
        await self.connect_some(dict(zip(self.engines, init_infos, strict=True)))

    async def connect_some(self, init_infos: Mapping[str, dict[str, Any]]) -> None:
        """Open the ends of some engines, with an info for each.

        Raises:
            TransferFailed: the other end is gone.
        """
        self.outages += 1
        engines = [(name, self.engines[name], [info]) for name, info in init_infos.items()]
        await _all_of(self._doing(name, engine, engine.connect(info)) for name, engine, info in engines)

    async def load(self, version: int, digest: str = "") -> dict[str, float]:
        """Load new weights in all engines, at once or in turn. Each engine only pauses for its own load.

        An engine that is lost during this time is removed. If another one fails, those that have begun finish
        their loads.

        Returns:
            The metrics of :meth:`areal.rollout.engine.Engine.load`, each from the engine with the worst
            value.

        Raises:
            TransferFailed: not all engines have the version.
        """
        self._check()
        there = dict(self.engines)
        loads = (
            self._doing(name, engine, self._load(name, engine, version, digest))
            for name, engine in there.items()
        )
        if self._in_turn:
            done = list[dict[str, float] | None]()
            while len(done) < len(there) and self.engines == there:
                done.append(await next(loads))
            if len(done) < len(there):
                raise TransferFailed(f"version {version} of the weights has reached only some of the engines")
        else:
            done = await _all_of(loads)
        self._version = version
        found = [metrics for metrics in done if metrics is not None]
        return {name: max(metrics[name] for metrics in found) for name in found[0]} if found else {}

    async def _load(self, name: str, engine: SingleEngine, version: int, digest: str) -> dict[str, float]:
        try:
            metrics = await engine.load(version, digest)
        except TransferFailed:
            self.outages += 1
            raise
        self.on_loaded(name, version, digest, metrics["time/pause"])
        return metrics

    async def _doing(self, name: str, engine: SingleEngine, work: Coroutine[Any, Any, T]) -> T | None:
        """Wait for a task of an engine; None: the engine is lost."""
        try:
            return await work
        except EngineLost as error:
            if self.on_lost is None:
                raise
            self._lose(name, engine, error)
            return None

    async def show_life(self) -> None:
        """Wait until each engine has responded or is lost. One that takes long counts as stalled."""
        begun = time.monotonic()
        engines = self.engines.items()
        await _all_of(self._doing(name, engine, engine.lives()) for name, engine in engines)
        self.outages += time.monotonic() - begun > _SILENCE

    async def close(self) -> None:
        """Stop all engines, even if one of them fails to stop, and raise the first error."""
        self.on_lost = None
        closing = (engine.close() for engine in self.engines.values())
        results = await asyncio.gather(*closing, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _check(self) -> None:
        if self._error is not None:
            raise self._error.with_traceback(None)  # otherwise the traceback grows with each raise


async def _all_of(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Wait until all tasks have ended. Then raise an error, preferably a loss rather than its consequence."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        if tasks:
            await asyncio.wait(tasks)
    finally:
        await cancel(*tasks)
    for task in sorted(tasks, key=lambda task: isinstance(task.exception(), TransferFailed)):
        task.result()
    return [task.result() for task in tasks]


class EpisodeEngines:
    """Several engines from the perspective of an episode, which stays with its last engine.

    Args:
        engines: all engines.
        key: a key that is the same for all episodes of a task.
    """

    def __init__(self, engines: Engines, key: int) -> None:
        self._engines, self._key, self._last = engines, key, ""
        self._outages = engines.outages

    async def disturbed(self) -> bool:
        """Return whether the episode may have waited for long because of an outage, which may still last."""
        if self._engines.outages == self._outages:
            await self._engines.show_life()
        return self._engines.outages > self._outages

    async def generate(
        self, ids: list[int], sampling: Sampling, *, images: Sequence[Image] = ()
    ) -> Completion:
        """Continue ``ids``; see :class:`areal.rollout.engine.Engine`."""
        near = self._engines.generate_near(self._key, self._last, ids, sampling, images)
        completion, self._last = await near
        return completion
