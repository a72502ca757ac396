"""Defines the program of benchmarks/programs.py, which uses pydantic-ai, a Python framework, in each form.

The program imports nothing from areal, so that it can run in its own environment. ``solve`` is the function.
As a command, the program runs one episode. With ``--stay``, it runs one episode after another.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider


async def solve(task: str, base_url: str, api_key: str) -> str:
    """Return the answer to a task."""
    model = OpenAIChatModel("any", provider=OpenAIProvider(base_url=base_url, api_key=api_key))
    return (await Agent(model).run(task)).output


def stay() -> None:
    """Answer tasks until the input ends."""
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            print(json.dumps({"answer": runner.run(solve(**json.loads(line)))}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--stay"]:
        stay()
    else:
        at = {"base_url": os.environ["OPENAI_BASE_URL"], "api_key": os.environ["OPENAI_API_KEY"]}
        print(asyncio.run(solve(sys.stdin.read(), **at)))
