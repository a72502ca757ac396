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
    """Runs episodes with one engine, one agent and a pool of environments, which all episodes share."""

    engine: Engine
    renderer: Renderer
    agent: Agent
    pool: EnvironmentPool
    max_model_len: int
    server: EndpointServer | None = None
    opening: Opening = Opening()  # noqa: RUF009 (it is frozen)

    @classmethod
    def build(
        cls,
        engine: Engine,
        renderer: Renderer,
        agent: Agent,
        pool: EnvironmentPool,
        max_model_len: int,
        temperature: float = 1.0,
        opening: Opening = Opening(),  # noqa: B008 (it is frozen)
    ) -> RolloutWorker:
        """Make a worker; its endpoint starts when a program first needs it."""
        server = EndpointServer(renderer.token_texts, temperature)
        return cls(engine, renderer, agent, pool, max_model_len, server, opening)

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
