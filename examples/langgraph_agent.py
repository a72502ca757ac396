"""A graph of LangGraph (``pip install langgraph langchain-openai``) with a tool, trained as it is.

    areal train --env math-v1 --agent examples/langgraph_agent.py:solve

The graph runs the tools and keeps the messages; each response of the model in it is recorded. The model that
ships with areal has never seen a tool, and is lost there: docs/agents.md has the command that teaches it.
"""

from typing import Literal

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.managed import RemainingSteps
from langgraph.prebuilt import ToolNode

from areal.agents.calculator import calculator

TOOLS = [tool(calculator)]  # any function of yours, with types and a docstring


class State(MessagesState):
    model: ChatOpenAI
    remaining_steps: RemainingSteps


async def think(state: State) -> dict:
    return {"messages": [await state["model"].bind_tools(TOOLS).ainvoke(state["messages"])]}


def then(state: State) -> Literal["tools", "__end__"]:
    return "tools" if state["messages"][-1].tool_calls and state["remaining_steps"] > 2 else END


graph = StateGraph(State)
graph.add_node(think)
graph.add_node("tools", ToolNode(TOOLS))
graph.add_edge(START, "think")
graph.add_conditional_edges("think", then)
graph.add_edge("tools", "think")
program = graph.compile()


async def solve(task: str, base_url: str, api_key: str) -> str:
    model = ChatOpenAI(model="any", base_url=base_url, api_key=api_key)
    start = {"messages": [("user", task)], "model": model}
    result = await program.ainvoke(start, {"recursion_limit": 8})
    return result["messages"][-1].text
