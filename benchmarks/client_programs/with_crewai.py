"""CrewAI: a crew of one, with a tool and with structured output."""

from __future__ import annotations

import os

os.environ |= {
    "CREWAI_TELEMETRY_OPT_OUT": "true",
    "OTEL_SDK_DISABLED": "true",
    "CREWAI_TRACING_ENABLED": "false",
}

from crewai import LLM, Agent, Crew, Task
from crewai.tools import tool
from uses import ANN, KEY, URL, WHO, Person, try_all, weather

MODEL = LLM(model="openai/gpt-4o", base_url=URL, api_key=KEY)


def tools() -> str:
    agent = Agent(role="r", goal="g", backstory="b", llm=MODEL, tools=[tool("weather")(weather)])
    task = Task(description="The weather?", expected_output="words", agent=agent)
    return str(Crew(agents=[agent], tasks=[task]).kickoff())


def output() -> object:
    agent = Agent(role="r", goal="g", backstory="b", llm=MODEL)
    task = Task(description=WHO, expected_output="json", agent=agent, output_pydantic=Person)
    return Crew(agents=[agent], tasks=[task]).kickoff().pydantic


try_all({"tools": tools, "output": output}, {"tools": "It is fine.", "output": ANN})
