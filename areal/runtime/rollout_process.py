"""The code of a rollout worker's own process.

The worker creates agent and environments itself, from the run's configuration, and reaches the engines over
its own connections. The run's process sends it one episode at a time, and is the only one that loads weights.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from typing import Any

from areal import registry
from areal.agents.interface import ConversationTooLong
from areal.config import Config
from areal.errors import (
    AgentFailure,
    EngineLost,
    EnvironmentFailure,
    ForeignFailure,
    UserError,
    WorkerLost,
    explained,
)
from areal.rollout.engine import Sampling, SingleEngine
from areal.rollout.engines import Engines
from areal.rollout.worker import RolloutWorker
from areal.runtime.agents import make_agent
from areal.runtime.rollouts import renderer_of, rollout_worker_of
from areal.runtime.worker_engine import WorkerEngine
from areal.trajectory import Episode
from areal.waiting import Work, wait_all
from areal.workers.attach import Address, attach
from areal.workers.handle import Launch

log = logging.getLogger(__name__)

_AGAIN = 1.0
"""Seconds before another try to reach an engine."""
_EXPLAINED = (UserError, WorkerLost, EnvironmentFailure, AgentFailure, ConversationTooLong)
"""Errors whose messages need no further explanation."""


@dataclass(frozen=True, slots=True)
class RolloutSetup:
    """The setup of a rollout worker.

    Attributes:
        config: the run's configuration.
        model: folder or hub id, of which only the tokenizer is needed.
        max_model_len: maximum sequence length, in tokens.
        registered: objects that the user's code has registered in the run's process.
        launch_env: starts a process for each environment; None: they are called on threads.
    """

    config: Config
    model: str
    max_model_len: int
    registered: bytes
    launch_env: Launch | None = None


@dataclass(frozen=True, slots=True)
class EpisodeAnswer:
    """An episode, and the counts of its worker so far; see :class:`areal.rollout.worker.EpisodeRunner`."""

    episode: Episode
    counts: dict[str, float]


class RolloutProcess:
    """Runs episodes with an agent, environments and engines that all episodes share.

    Raises:
        UserError: the environment, the agent or the model's tokenizer is not found in this process.
    """

    def __init__(self, setup: RolloutSetup) -> None:
        config = setup.config
        registry.restore(setup.registered)
        agent = make_agent(config)
        registry.find_env(config.env)
        renderer = renderer_of(config, setup.model, agent)
        self._engines = Engines({})
        self._engines.on_lost = self._lost
        self._addresses: dict[str, Address] = {}  # all engines that should be used
        self._attached: dict[str, Address] = {}  # those that are attached
        self._tasks = set[asyncio.Task[None]]()
        self._worker: RolloutWorker = rollout_worker_of(
            config, renderer, agent, setup.max_model_len, self._engines, setup.launch_env
        )

    async def use_engines(self, addresses: Sequence[Address], patience: float | None = None) -> None:
        """Send requests to these engines from now on, and wait for those in flight on others.

        Args:
            addresses: addresses of the engines.
            patience: seconds after which requests in flight on others continue on these; None: never.
        """
        engines = self._engines
        self._addresses = {address.name: address for address in addresses}
        for name, address in self._addresses.items():
            if self._attached.get(name, address) != address:
                engines.lose(name, EngineLost(f"another engine has taken its place and its name, {name}"))
        new = [address for name, address in self._addresses.items() if name not in engines.engines]
        await wait_all(*map(self._attach, new))
        # Engines that an earlier call is removing are left to that call.
        leaving = engines.engines.keys() - self._addresses.keys() - engines.leaving
        for name in leaving:
            engines.retire(name)
        for name in leaving:
            await engines.drain(name, patience)
            if name in engines.engines:  # else it was lost
                del self._attached[name]
                await engines.remove(name).close()

    async def _attach(self, address: Address) -> None:
        """Attach an engine. If it cannot be reached, try again later."""
        try:
            connection = await attach(address)
        except WorkerLost as lost:
            log.warning("%s", lost)
            self._do(self._attach_later(address))
            return
        if self._addresses.get(address.name) != address or address.name in self._engines.engines:
            connection.kill()  # another call was faster
            return
        self._attached[address.name] = address
        self._engines.add(address.name, WorkerEngine(connection))

    async def _attach_later(self, address: Address) -> None:
        """Attach an engine after a moment if it is still wanted; the run's process soon learns of a loss."""
        await asyncio.sleep(_AGAIN)
        if self._addresses.get(address.name) == address and address.name not in self._engines.engines:
            await self._attach(address)

    def _lost(self, name: str, engine: SingleEngine, error: EngineLost) -> None:
        log.warning("%s was lost: %s", name, error)
        self._do(engine.close())
        self._do(self._attach_later(self._attached.pop(name)))

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run_episode(self, task: dict[str, Any], sampling: Sampling) -> EpisodeAnswer:
        """Run one episode of a task; see :meth:`areal.rollout.worker.RolloutWorker.run_episode`.

        Raises:
            ForeignFailure: third-party code other than an environment raised.
        """
        try:
            episode = await self._worker.run_episode(task, sampling)
        except _EXPLAINED:
            raise
        except Exception as error:  # for any error, because the run's process may not know its class
            raise ForeignFailure(explained(error, __file__)) from error
        return EpisodeAnswer(episode, self._worker.counts())

    def progress(self) -> Work:
        """Return the number of finished calls of environments, and of those in flight."""
        calls = self._worker.pool.calls
        return Work(calls.done, "calls of environments", 0, 0, len(calls.since))

    async def close(self) -> None:
        """Stop the endpoint and close the environments. The engines continue."""
        await self._worker.close()
