"""A rollout worker runs episodes: one engine, one agent, a pool of environments."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from areal.agents.interface import Agent
from areal.rollout.endpoint.server import EndpointServer
from areal.rollout.engine import Engine, Sampling
from areal.rollout.environments import EnvironmentPool
from areal.rollout.episode import run_episode
from areal.rollout.opening import Opening
from areal.rollout.recorder import Recorder
from areal.rollout.rendering import Renderer
from areal.trajectory import Episode


@dataclass(frozen=True, slots=True)
class RolloutWorker:
    """Runs episodes with one engine, one agent and a pool of environments, which all episodes share.

    Agents that are programs need a ``server``; it starts when a program first asks.
    """

    engine: Engine
    renderer: Renderer
    agent: Agent
    pool: EnvironmentPool
    max_model_len: int
    server: EndpointServer | None = None
    opening: Opening = Opening()  # noqa: RUF009 (it is frozen)

    @property
    def refused(self) -> int:
        """Number of programs' calls that were refused so far."""
        return 0 if self.server is None else self.server.refusals.count

    async def run_episode(self, task: dict[str, Any], sampling: Sampling) -> Episode:
        """Run one episode of a task (keyword arguments of ``env.reset``)."""
        model = Recorder(self.engine, self.renderer, sampling, self.max_model_len, self.server)
        return await run_episode(self.agent, self.pool, task, model, self.opening)

    async def close(self) -> None:
        """Stop endpoint and engine, and close the environments."""
        if self.server is not None:
            await self.server.close()
        await self.engine.close()
        self.pool.close()
