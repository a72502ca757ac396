"""A program that uses Anthropic's client, trained as it is: asked twice, it answers twice.

    areal train --env math-v1 --agent examples/anthropic_client.py:solve
    areal train --env math-v1 --agent program agent_options.command='python examples/anthropic_client.py'

As a command it knows nothing of areal: the task is on its standard input, what it prints is its answer, and
the client finds address and key where it looks for them anyway, in its environment.
"""

import asyncio
import sys

from anthropic import AsyncAnthropic
from anthropic.types import MessageParam


async def solve(task: str, base_url: str | None = None, api_key: str | None = None) -> str:
    messages: list[MessageParam] = [{"role": "user", "content": task}]
    async with AsyncAnthropic(base_url=base_url, api_key=api_key) as client:
        first = await client.messages.create(model="any", max_tokens=64, messages=messages)
        messages.append({"role": "assistant", "content": first.content})
        messages.append({"role": "user", "content": task})
        async with client.messages.stream(model="any", max_tokens=64, messages=messages) as second:
            return await second.get_final_text()


if __name__ == "__main__":
    print(asyncio.run(solve(sys.stdin.read())))
