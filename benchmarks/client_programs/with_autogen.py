"""AutoGen's agents, with OpenAI's client."""

from __future__ import annotations

from typing import Any

from autogen_agentchat.agents import AssistantAgent
from autogen_core.models import ModelFamily
from autogen_ext.models.openai import OpenAIChatCompletionClient
from uses import ANN, KEY, URL, WHO, Person, try_all, weather


def client(**more: Any) -> Any:
    info: Any = {
        "vision": False, "function_calling": True, "json_output": True, "structured_output": True,
        "family": ModelFamily.UNKNOWN,
    }  # fmt: skip
    return OpenAIChatCompletionClient(model="m", base_url=URL, api_key=KEY, model_info=info, **more)


async def last(task: str, **more: Any) -> Any:
    model = client(**more.pop("client", {}))
    found = await AssistantAgent("a", model_client=model, **more).run(task=task)
    return found.messages[-1].content


try_all(
    {
        "chat": lambda: last("Hello?"),
        "tools": lambda: last("The weather?", tools=[weather], reflect_on_tool_use=True),
        "one tool at a time": lambda: last(
            "The weather?", tools=[weather], client={"parallel_tool_calls": False}
        ),
        "output": lambda: last(WHO, output_content_type=Person),
    },
    {"chat": "It is fine.", "tools": "It is fine.", "output": ANN},
)
