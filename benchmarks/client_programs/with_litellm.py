"""LiteLLM, by three of its providers."""

from __future__ import annotations

from typing import Any

import litellm
from uses import KEY, ROOT, URL, WHO, Person, try_all

litellm.suppress_debug_info = True


def chat(model: str, asked: str = "Hello?", **more: Any) -> str:
    base = ROOT if model.startswith("anthropic") else URL
    messages = [{"role": "user", "content": asked}]
    found = litellm.completion(model=model, api_base=base, api_key=KEY, messages=messages, **more)
    if more.get("stream"):
        return "".join(part.choices[0].delta.content or "" for part in found)
    return found.choices[0].message.content


def responses() -> str:
    found = litellm.responses(model="openai/m", api_base=URL, api_key=KEY, input="Hello?")
    return found.output[-1].content[0].text


def too_long(model: str) -> str:
    """Ask with more than the model takes: LiteLLM knows that error by its words, and tells programs so."""
    try:
        return chat(model, "more " * 30_000)
    except litellm.ContextWindowExceededError:
        return "known"


JSON = '{"name": "Ann", "age": 3}'
MODELS = ("openai/m", "anthropic/m", "hosted_vllm/m")
try_all(
    {
        **{model: lambda model=model: chat(model) for model in MODELS},
        **{f"{model}, streamed": lambda model=model: chat(model, stream=True) for model in MODELS},
        "temperature": lambda: chat("openai/m", temperature=0),
        "anthropic temperature": lambda: chat("anthropic/m", temperature=0),
        "json": lambda: chat("openai/m", WHO, response_format={"type": "json_object"}),
        "schema": lambda: chat("openai/m", WHO, response_format=Person),
        "text": lambda: (
            litellm.text_completion(
                model="text-completion-openai/m", api_base=URL, api_key=KEY, prompt="1 + 1 =", max_tokens=99
            ).choices[0].text
        ),
        "responses": responses,
        **{f"{model}, too long": lambda model=model: too_long(model) for model in MODELS},
    },
    {
        **dict.fromkeys((*MODELS, *(f"{model}, streamed" for model in MODELS)), "It is fine."),
        **dict.fromkeys(("json", "schema"), JSON),
        **dict.fromkeys((f"{model}, too long" for model in MODELS), "known"),
    },
)  # fmt: skip
