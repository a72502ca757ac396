"""A rollout worker runs episodes: one engine, one agent, a pool of environments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from areal.agents.interface import Agent
from areal.agents.program import Program
from areal.rollout.endpoint.refusals import Refusals
from areal.rollout.endpoint.server import EndpointServer
from areal.rollout.engine import Engine, Sampling
from areal.rollout.engines import Engines
from areal.rollout.environments import EnvironmentPool
from areal.rollout.episode import run_episode
from areal.rollout.opening import Opening
from areal.rollout.recorder import Recorder
from areal.rollout.rendering import Renderer
from areal.trajectory import Episode


class EpisodeRunner(Protocol):
    """Runs the episodes of a run: a rollout worker in this process, or several in separate processes."""

    @property
    def engine(self) -> Engine:
        """All engines, through which the run's process loads weights."""
        ...

    def counts(self) -> dict[str, float]:
        """Return the counts of failed, refused and repeated work so far, by names in a run's metrics."""
        ...

    @property
    def busy_seconds(self) -> float:
        """Number of seconds so far in which there was work for the engines."""
        ...

    async def run_episode(self, task: dict[str, Any], sampling: Sampling) -> Episode:
        """Run one episode of a task (keyword arguments of ``env.reset``)."""
        ...

    async def close(self) -> None:
        """Stop the engines and everything else."""
        ...


@dataclass(frozen=True, slots=True)
class RolloutWorker:
    """Runs episodes with one engine, one agent and a pool of environments, which all episodes share.

    Agents that are programs need a ``server``, which starts with the first request of a program.
    """

    engine: Engine
    renderer: Renderer
    agent: Agent
    pool: EnvironmentPool
    max_model_len: int
    server: EndpointServer | None = None
    opening: Opening = Opening()  # noqa: RUF009 (it is frozen)

    def counts(self) -> dict[str, float]:
        """Return the counts of failed, refused and repeated work so far, by names in a run's metrics."""
        refusals = self.server.refusals if self.server is not None else Refusals()
        found = {"refused": refusals.count, "ignored": refusals.ignored, **self.pool.counts()}
        of_engines = self.engine.counts() if isinstance(self.engine, Engines) else {}
        return {f"rollout/{name}": float(count) for name, count in found.items()} | of_engines

    @property
    def busy_seconds(self) -> float:
        """Number of seconds so far in which the engine was generating."""
        return self.engine.busy_seconds

    async def run_episode(self, task: dict[str, Any], sampling: Sampling) -> Episode:
        """Run one episode of a task (keyword arguments of ``env.reset``)."""
        engine = self.engine.of_task(task) if isinstance(self.engine, Engines) else self.engine
        model = Recorder(engine, self.renderer, sampling, self.max_model_len, self.server)
        return await run_episode(self.agent, self.pool, task, model, self.opening)

    async def close(self) -> None:
        """Stop the programs, the endpoint and the engine, and close the environments."""
        if isinstance(self.agent, Program):
            await self.agent.close()
        if self.server is not None:
            await self.server.close()
        await self.engine.close()
        await self.pool.close()
