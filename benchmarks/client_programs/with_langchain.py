"""LangChain: chat models of both vendors, agents, and structured output by each of its methods."""

from __future__ import annotations

from typing import Any

from langchain.agents import create_agent
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI
from uses import ANN, KEY, ROOT, URL, WHO, Person, try_all, weather

MODELS: dict[str, Any] = {
    "chat": ChatOpenAI(model="m", base_url=URL, api_key=KEY),
    "responses": ChatOpenAI(model="m", base_url=URL, api_key=KEY, use_responses_api=True),
    "anthropic": ChatAnthropic(model="m", base_url=ROOT, api_key=KEY, max_tokens=500),
}


def agent(model: Any) -> str:
    made = create_agent(model, tools=[weather])
    found = made.invoke({"messages": [{"role": "user", "content": "The weather?"}]})
    again = made.invoke({"messages": [*found["messages"], {"role": "user", "content": "And tomorrow?"}]})
    return again["messages"][-1].text


METHODS = ("json_schema", "function_calling", "json_mode")
try_all(
    {
        **{name: lambda model=model: model.invoke("Hello?").text for name, model in MODELS.items()},
        **{f"{name}, agent": lambda model=model: agent(model) for name, model in MODELS.items()},
        **{
            method: lambda method=method: (
                MODELS["chat"].with_structured_output(Person, method=method).invoke(WHO)
            )
            for method in METHODS
        },
        "anthropic, structured": lambda: MODELS["anthropic"].with_structured_output(Person).invoke(WHO),
        "temperature": lambda: (
            ChatOpenAI(model="m", base_url=URL, api_key=KEY, temperature=0).invoke("Hi?").text
        ),
    },
    {
        **dict.fromkeys((*MODELS, *(f"{name}, agent" for name in MODELS)), "It is fine."),
        **dict.fromkeys((*METHODS, "anthropic, structured"), ANN),
    },
)
