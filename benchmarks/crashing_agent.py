"""A program that crashes at half of the starter's responses, and the same program without the crash.

The starter says a bare answer or shows its working before it, about as often.
"""

from __future__ import annotations

from openai import AsyncOpenAI

client = AsyncOpenAI(base_url="http://localhost/v1", api_key="none")


def answer(text: str) -> int:
    """Read a response that is an answer and nothing else.

    Raises:
        ValueError: it is anything else, such as one that shows its working.
    """
    return int(text.removeprefix("\\boxed{").removesuffix("}"))


async def said(task: str, base_url: str, api_key: str) -> str:
    mine = client.with_options(base_url=base_url, api_key=api_key)
    completion = await mine.chat.completions.create(model="any", messages=[{"role": "user", "content": task}])
    return completion.choices[0].message.content or ""


async def crashing(task: str, base_url: str, api_key: str) -> str:
    return f"\\boxed{{{answer(await said(task, base_url, api_key))}}}"


async def careful(task: str, base_url: str, api_key: str) -> str:
    return await said(task, base_url, api_key)
