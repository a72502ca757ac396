"""Inspect, which evaluates models and agents: by its models for three protocols, and with a tool."""

from __future__ import annotations

import os
import tempfile
from typing import Any

os.environ |= {"AREAL_BASE_URL": os.environ["BASE_URL"], "AREAL_API_KEY": os.environ["API_KEY"]}

from inspect_ai import Task
from inspect_ai import eval as evaluate
from inspect_ai.agent import react
from inspect_ai.dataset import Sample
from inspect_ai.model import get_model
from inspect_ai.scorer import includes
from inspect_ai.solver import generate
from inspect_ai.tool import Tool, tool
from uses import KEY, ROOT, URL, try_all


@tool
def weather() -> Tool:
    async def execute(city: str) -> str:
        """Tell the weather of a city.

        Args:
            city: the city.
        """
        return "fine"

    return execute


def score(name: str, base: str = URL, solver: Any = None, **more: Any) -> float:
    """Evaluate a task of two problems; return its accuracy."""
    model = get_model(name, base_url=base, api_key=KEY, memoize=False, **more)
    problems = [Sample(input="Hello?", target="fine"), Sample(input="The weather?", target="fine")]
    task = Task(dataset=problems, solver=solver or generate(), scorer=includes())
    with tempfile.TemporaryDirectory() as folder:
        (log,) = evaluate(task, model=model, display="none", log_dir=folder)
    assert log.status == "success", log.error
    return log.results.scores[0].metrics["accuracy"].value


USES = {
    "openai": lambda: score("openai/m", responses_api=False),
    "openai, responses": lambda: score("openai/m", responses_api=True),
    "openai-api": lambda: score("openai-api/areal/m"),
    "anthropic": lambda: score("anthropic/m", ROOT),
    "agent with a tool": lambda: score("openai-api/areal/m", solver=react(tools=[weather()], submit=False)),
}
try_all(USES, dict.fromkeys(USES, 1.0))
