"""A run of scripted engines that can join it, leave it and die, and a learner that sends them versions."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, TypeVar

import numpy as np
from inventories import host

from areal.config import parse_config
from areal.errors import EngineLost, TransferFailed
from areal.placement.inventory import Inventory
from areal.placement.placement import Placement, place
from areal.rollout.admission import Admission
from areal.rollout.controller import EpisodeId, RolloutController
from areal.rollout.engine import Completion, Partial, Sampling
from areal.rollout.engines import Engines
from areal.runtime.learner_rank import LearnerRank
from areal.runtime.membership import Membership
from areal.runtime.restarts import Restarts
from areal.runtime.weight_sync import WeightSync
from areal.trajectory import Episode, Group, Trajectory
from areal.waiting import Watch, cancel

T = TypeVar("T")
BATCH, MEMBERS = 3, 2


class Learner:
    """Makes versions, and is the other end of the engines' connections."""

    def __init__(self, in_turn: bool) -> None:
        self.epoch, self.version, self.in_turn = 0, -1, in_turn
        self.sizes = [0]
        """Engines of each group of the epoch."""
        self.sending = Counter[int]()
        """Who takes part now, by groups."""
        self.joined = asyncio.Condition()
        self.deaths = 0

    async def call(self, method: Any, *args: Any) -> Any:
        if method is LearnerRank.publish:
            assert not self.sending.total(), "it is written while engines load it"
            self.version += 1
            return f"digest of {self.version}"
        elif method is LearnerRank.reopen_sender:
            assert self.deaths or not self.sending.total(), "the epoch ends in the middle of a transfer"
            self.sending.clear()
            async with self.joined:
                self.joined.notify_all()
            count = args[0].count("broadcast")
            self.epoch, self.sizes = self.epoch + 1, [1] * count if self.in_turn else [count]
            groups = itertools.count(0, int(self.in_turn))
            return [
                {"learner": self, "backend": each, "of": (self.epoch, each == "broadcast" and next(groups))}
                for each in args[0]
            ]
        elif method is LearnerRank.send:
            try:
                epoch = self.epoch
                for group in range(len(self.sizes)):
                    await self.take_part(epoch, group)
            except TransferFailed as failed:
                return str(failed)
            return ""
        return None

    async def take_part(self, epoch: int, group: int) -> int:
        """A broadcast: it goes on once the learner and all engines of the group take part, or never."""
        assert self.deaths or epoch == self.epoch, "somebody takes part who was not connected anew"
        async with self.joined:
            if epoch == self.epoch:
                self.sending[group] += 1
                self.joined.notify_all()
                await self.joined.wait_for(
                    lambda: (
                        epoch != self.epoch
                        or self.sending[group] > self.sizes[group]
                        or not self.sending[group]
                    )
                )
            if epoch != self.epoch:
                raise TransferFailed("the epoch is over")
            self.sending[group] = 0
            self.joined.notify_all()
        return self.version


class ScriptedEngine:
    """Samples a token now and then, each with the version of that moment."""

    busy_seconds = 0.0

    def __init__(self, rng: random.Random) -> None:
        self.version = -1
        self.info: dict[str, Any] = {}
        self.closed = False
        self.running = 0
        self.dead = asyncio.Event()
        self._rng = rng

    def watch(self, lost: Callable[[EngineLost], None]) -> None:
        self._lost = lost

    def die(self) -> None:
        self.dead.set()
        if hasattr(self, "_lost"):
            asyncio.get_running_loop().call_later(self._rng.random() / 100, self._lost, EngineLost("died"))

    async def _alive(self, work: Coroutine[Any, Any, T]) -> T:
        """Do some work, unless the engine dies of it."""
        tasks: Any = [asyncio.ensure_future(work), asyncio.ensure_future(self.dead.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if tasks[0].done():
                return tasks[0].result()
            raise EngineLost("died")
        finally:
            await cancel(*tasks)

    async def generate(
        self, ids: list[int], sampling: Sampling, partial: Partial | None = None, *, images: object = ()
    ) -> Completion:
        return await self._alive(self._generate(ids, sampling, partial or Partial()))

    async def _generate(self, ids: list[int], sampling: Sampling, partial: Partial) -> Completion:
        """A token's id is its place in the sequence, and its log-probability its version."""
        assert not self.closed
        assert self.version >= 0, "a request before any weights"
        new = Partial()
        self.running += 1
        try:
            for _ in range(self._rng.randrange(1, sampling.max_tokens + 1)):
                new.extend(Partial([len(ids) + len(new.ids)], [float(self.version)], [self.version]))
                if self._rng.random() < 0.5:  # as it is about once a second
                    partial.clear()
                    partial.extend(new)
                await asyncio.sleep(self._rng.random() / 500)
        finally:
            self.running -= 1
        return Completion(new.ids, new.logprobs, new.versions, "eos")

    async def connect(self, init_infos: list[dict[str, Any]]) -> None:
        if self.dead.is_set():
            raise EngineLost("died")
        self.info = init_infos[0] if init_infos else {}

    async def load(self, version: int, digest: str = "") -> dict[str, float]:
        return await self._alive(self._load(version, digest))

    async def _load(self, version: int, digest: str) -> dict[str, float]:
        learner: Learner = self.info["learner"]
        found = learner.version
        if self.info["backend"] == "broadcast":
            try:
                found = await learner.take_part(*self.info["of"])
            except TransferFailed:
                if self._rng.random() < 0.7:  # else all of it had come before somebody else died
                    raise
        await asyncio.sleep(self._rng.random() / 500)
        assert found == version, "what is loaded is not the version that it is called"
        assert digest == f"digest of {found}"
        self.version = version
        return {"time/pause": 0.0}

    async def close(self) -> None:
        assert self.dead.is_set() or not self.running, "requests are in flight"
        self.closed = True


class Run:
    """A run of scripted engines on the CPUs of two hosts; the learner is on the first."""

    def __init__(
        self,
        seed: int,
        eta: float,
        engines: int = 1,
        start: Any = None,
        in_turn: bool = False,
        max_restarts: int = 1000,
    ) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.rng = random.Random(seed)
        self.config = parse_config({"device": "cpu", "engine": {"count": engines}})
        self.placement = place(Inventory((host([], "a"), host([], "b"))), self.config)
        self.learner: Any = Learner(in_turn)
        self.made: list[ScriptedEngine] = []
        self.engines = Engines({f"engine {number}": self.make() for number in range(engines)}, in_turn)
        self.admission = Admission[Group](BATCH, eta)
        self.watch, self.notices = Watch(), list[str]()
        self.announced: list[tuple[set[str], float | None]] = []
        self.sync = WeightSync(
            self.engines, self.learner, self.advance, eta == 0, self.watch, log_event=self.log_event
        )
        self.controller = RolloutController(
            self.admission, self.episode, lambda number: {"index": number}, MEMBERS, 4 * MEMBERS, 0, 0
        )
        self.members = Membership(
            self.config,
            self.placement,
            self.sync,
            start or self.start,
            self.notices.append,
            self.announce,
            Restarts(max_restarts),
            self.log_event,
        )

    def log_event(self, event: str, **fields: Any) -> None:
        self.events.append((event, fields))

    def of(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.events if name == event]

    def make(self) -> ScriptedEngine:
        self.made.append(ScriptedEngine(self.rng))
        return self.made[-1]

    async def announce(self, engines: Mapping[str, Any], patience: float | None) -> None:
        assert all(engine.version >= 0 for engine in engines.values())
        self.announced.append((set(engines), patience))

    async def start(self, placement: Placement, number: int) -> tuple[str, ScriptedEngine]:
        await asyncio.sleep(self.rng.random() / 100)
        return f"engine {number}", self.make()

    def advance(self, version: int) -> None:
        assert self.engines.version == version
        self.controller.advance(version)

    async def episode(self, task: dict[str, Any], episode_id: EpisodeId) -> Episode:
        versions: list[int] = []
        for _ in range(self.rng.randrange(1, 3)):  # turns
            completion = await self.engines.generate([task["index"]], Sampling(4))
            assert completion.ids == list(range(1, 1 + len(completion.ids))), "each token is there, once"
            assert len(completion.ids) <= 4
            assert completion.logprobs == completion.versions, "a token has the version of another"
            versions += completion.versions
        count = len(versions)
        sampled = Trajectory(
            np.zeros(count, np.int32), np.ones(count, bool), np.zeros(count), np.array(versions)
        )
        return Episode([sampled], 1.0, {}, task)

    async def begin(self) -> None:
        await self.engines.connect(
            await self.learner.call(LearnerRank.reopen_sender, self.placement.backends)
        )
        await self.sync.start(0)

    async def train(self, updates: int) -> list[list[Group]]:
        """Returns the batches."""
        generating, batches = self.watch.add(self.controller.run()), []
        for version in range(updates):
            batches.append(
                await self.watch.wait(self.controller.next_batch(version), "the learner", "a batch")
            )
            await asyncio.sleep(self.rng.random() / 200)
            await self.sync.publish(version + 1)
        await self.sync.finish()
        await self.watch.drop(generating)
        return batches


def run(work: Coroutine[Any, Any, None]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await work

    asyncio.run(limited())


def assert_trained_well(this: Run, batches: list[list[Group]], eta: int) -> None:
    """Each group was consumed once, none failed, and each token's staleness is within the bound."""
    consumed = [group for batch in batches for group in batch]
    assert len({group.id for group in consumed}) == len(consumed) == 12 * BATCH
    assert this.controller.counts() == dict.fromkeys(this.controller.counts(), 0)
    for version, batch in enumerate(batches):
        for group in batch:
            oldest = min(episode.trajectories[0].versions.min() for episode in group.episodes)
            assert oldest >= group.version, "an engine had older weights than the gate counted with"
            assert version - oldest <= eta
