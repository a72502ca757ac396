"""An agent of one's own: it answers, looks at its answer once more, and gives the second one.

areal train --env math-v1 --agent examples/my_agent.py:SecondLook
"""

from __future__ import annotations

from areal.agents.interface import Env, Model


class SecondLook:
    """Any object with ``run``; keyword arguments come from ``agent_options``."""

    def __init__(self, question: str = "Is that right? Answer again.") -> None:
        self._question = question

    async def run(self, env: Env, model: Model) -> None:
        """Run one episode; everything that the model says is trained on."""
        task = await env.reset()
        await model.generate(task)
        await env.step(await model.generate(f"{self._question}\n{task}"))
