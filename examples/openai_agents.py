"""An agent of the OpenAI Agents SDK (``pip install openai-agents``), trained as it is.

    areal train --env math-v1 --agent examples/openai_agents.py:solve

The SDK keeps the conversation, runs the tools and hands work from agent to agent; each response of the model
in it is recorded. The model that ships with areal is too small to call a tool; give yours tools as usual.
"""

from openai import AsyncOpenAI

from agents import Agent, OpenAIResponsesModel, Runner, set_tracing_disabled

set_tracing_disabled(True)  # traces would go to OpenAI
client = AsyncOpenAI(base_url="http://localhost/v1", api_key="none")


async def solve(task: str, base_url: str, api_key: str) -> str:
    mine = client.with_options(base_url=base_url, api_key=api_key)
    agent = Agent("solver", model=OpenAIResponsesModel("any", mine))
    result = await Runner.run(agent, task)
    return str(result.final_output)
