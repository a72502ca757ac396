"""The agent ``tool-use`` with tools of one's own: typed functions with docstrings.

    python examples/tool_use.py [MODEL] [key.sub=value ...]

The same as ``areal train --env math-v1 --agent tool-use agent_options.tools=[examples/tool_use.py:divide]``.
Made for a model that knows tool calls, such as Qwen/Qwen2.5-0.5B-Instruct; any model runs. docs/agents.md has
the command that teaches them to the model that ships with areal.
"""

from __future__ import annotations

import sys

import areal


def divide(number: int, by: int) -> dict[str, int]:
    """Divide whole numbers with a remainder.

    Args:
        number: What is divided.
        by: What it is divided by; not 0.
    """
    quotient, remainder = divmod(number, by)  # the model sees an error as the result
    return {"quotient": quotient, "remainder": remainder}


if __name__ == "__main__":
    model, *overrides = sys.argv[1:] or ["starter"]
    areal.train(
        env="math-v1",
        env_options={"difficulty": 5},
        agent="tool-use",
        agent_options={"tools": [f"{__file__}:divide", "areal.agents.calculator:calculator"]},
        model=model,
        overrides=overrides,
        show=True,
    )
