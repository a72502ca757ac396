"""The simplest agent: one observation, one response."""

from __future__ import annotations

from areal.agents.interface import Env, Model


class SingleTurn:
    """Reads the observation and answers once."""

    async def run(self, env: Env, model: Model) -> None:
        """Run one episode."""
        observation = await env.reset()
        response = await model.generate(observation)
        await env.step(response)
