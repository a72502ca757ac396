"""A program with a Python framework, pydantic-ai, in each form, for benchmarks/programs.py.

It imports nothing of areal, so that an environment of its own may run it. ``solve`` is the function; as a
command it runs one episode, and with ``--stay`` one after the other.
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
    """Answer a task."""
    model = OpenAIChatModel("any", provider=OpenAIProvider(base_url=base_url, api_key=api_key))
    return (await Agent(model).run(task)).output


def stay() -> None:
    """Answer tasks until there are no more."""
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            print(json.dumps({"answer": runner.run(solve(**json.loads(line)))}), flush=True)


if __name__ == "__main__":
    if sys.argv[1:] == ["--stay"]:
        stay()
    else:
        at = {"base_url": os.environ["OPENAI_BASE_URL"], "api_key": os.environ["OPENAI_API_KEY"]}
        print(asyncio.run(solve(sys.stdin.read(), **at)))
