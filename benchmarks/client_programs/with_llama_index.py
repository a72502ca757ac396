"""LlamaIndex, by its class for servers like OpenAI's."""

from __future__ import annotations

from typing import Any

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.prompts import PromptTemplate
from llama_index.llms.openai_like import OpenAILike
from uses import ANN, KEY, URL, WHO, Person, try_all, weather


def model(**more: Any) -> OpenAILike:
    return OpenAILike(
        model="m", api_base=URL, api_key=KEY, is_chat_model=True, is_function_calling_model=True, **more
    )


async def agent() -> str:
    return str(await FunctionAgent(tools=[weather], llm=model()).run("The weather?"))


try_all(
    {
        "chat": lambda: model().complete("Hello?").text,
        "text": lambda: (
            OpenAILike(model="m", api_base=URL, api_key=KEY, is_chat_model=False).complete("1 + 1 =").text
        ),
        "agent": agent,
        "structured": lambda: model().structured_predict(Person, PromptTemplate(WHO)),
    },
    {"chat": "It is fine.", "agent": "It is fine.", "structured": ANN},
)
