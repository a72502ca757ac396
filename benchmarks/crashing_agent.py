"""Defines a program that crashes on half of the starter model's responses, and a variant without the crash.

The starter model gives a bare answer about as often as it shows its working before the answer.
"""

from __future__ import annotations

from openai import AsyncOpenAI

client = AsyncOpenAI(base_url="http://localhost/v1", api_key="none")


def answer(text: str) -> int:
    """Parse a response that consists only of an answer.

    Raises:
        ValueError: the response contains anything else, such as the model's working.
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
