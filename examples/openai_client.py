"""A program that uses OpenAI's client, trained as it is.

    areal train --env math-v1 --agent examples/openai_client.py:solve

An async function of the task; what it returns is its answer, which the environment judges.
"""

from openai import AsyncOpenAI

# One pool of connections for all tasks; each task has a key of its own.
client = AsyncOpenAI(base_url="http://localhost/v1", api_key="none")


async def solve(task: str, base_url: str, api_key: str) -> str:
    mine = client.with_options(base_url=base_url, api_key=api_key)
    completion = await mine.chat.completions.create(model="any", messages=[{"role": "user", "content": task}])
    return completion.choices[0].message.content or ""
