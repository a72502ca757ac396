"""smolagents: an agent that calls tools. Its agents that write code need a model that writes code."""

from __future__ import annotations

from smolagents import OpenAIServerModel, ToolCallingAgent, tool
from uses import KEY, URL, try_all, weather

MODEL = OpenAIServerModel("m", api_base=URL, api_key=KEY)


def tools() -> str:
    return str(
        ToolCallingAgent(tools=[tool(weather)], model=MODEL, max_steps=4, verbosity_level=0).run("Weather?")
    )


try_all(
    {"tools": tools, "message": lambda: MODEL([{"role": "user", "content": "Hello?"}]).content},
    {"message": "It is fine."},
)
