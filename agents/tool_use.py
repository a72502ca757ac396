"""An agent that calls tools, in the model's own format, through its chat template."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from typing import Any

from areal.agents.chat import Chat, checked_limits
from areal.agents.interface import Content, Env, Message, Model, Tool
from areal.agents.tools import ToolBox
from areal.errors import UserError
from areal.registry import load_object

CALCULATOR = "areal.agents.calculator:calculator"


class ToolUse:
    """Executes the tool calls in the model's responses; the calls of one response run concurrently.

    A response without a call is the action in the environment. If a tool raises an exception, the model sees
    it as the result of the call. When the turns are used up, the last response is the action, whatever it
    contains.

    The environment itself may have tools. Each call of such a tool is an action, and the observation is its
    result; these calls are executed one after another, even those of the last response.

    Args:
        tools: functions (areal.agents.tools), or their names as ``module:function`` or ``file.py:function``;
            None: a calculator, or only the tools of the environment if it has any.
        system: a system message, which replaces any other; None: that of the problem or of the setting
            ``chat.system``, otherwise that of the chat template, if it has one.
        max_turns: maximum number of responses in an episode, with and without calls.
        max_tokens: maximum number of sampled tokens in an episode; None: no separate limit.
        max_calls: maximum number of calls in one response; further calls are refused.
        time_limit: time limit of one call, in seconds.

    Raises:
        UserError: a tool does not exist or cannot be described, or a limit is below 1.
    """

    def __init__(
        self,
        tools: Sequence[Callable[..., Any] | str] | None = None,
        system: str | None = None,
        max_turns: int = 8,
        max_tokens: int | None = None,
        max_calls: int = 8,
        time_limit: float = 30.0,
    ) -> None:
        checked_limits("tool-use", min(max_turns, max_calls), max_tokens)
        given = (CALCULATOR,) if tools is None else tools
        self._box = ToolBox([load_object(t) if isinstance(t, str) else t for t in given], time_limit)
        self._given = tools is not None
        self._system = system
        self._limits = max_turns, max_tokens
        self._max_calls = max_calls

    async def run(self, env: Env, model: Model) -> None:
        """Run one episode."""
        opening = await env.open()
        if self._system is not None:
            turns = [message for message in opening if message["role"] != "system"]
            opening = [{"role": "system", "content": self._system}, *turns]
        theirs = _names(env.tools)
        ours = self._box.schemas if self._given or not theirs else []
        if twice := theirs & _names(ours):
            raise UserError(f"tool-use: the environment itself has a tool '{min(twice)}'; rename yours")
        chat = Chat(model, opening, *self._limits, tools=[*env.tools, *ours])
        while (reply := await chat.ask()) is not None:
            calls = reply.message.get("tool_calls", ())
            if calls and (not chat.over or any(call["function"]["name"] in theirs for call in calls)):
                made = await self._make(calls, theirs, _names(ours), env)
                if made is None:
                    return
                chat.messages += made
                continue
            step = await env.step(reply.spoken)
            if step.done:
                return
            chat.append(step.observation)

    async def _make(
        self, calls: Sequence[dict[str, Any]], theirs: set[str], ours: set[str], env: Env
    ) -> list[Message] | None:
        """Execute the calls of a response; return their results, or None if the episode has ended."""
        allowed = calls[: self._max_calls]
        here = [call for call in allowed if call["function"]["name"] in ours]
        found = await asyncio.gather(*(self._box.execute(call) for call in here))
        made = {id(call): result for call, result in zip(here, found, strict=True)}
        for call in allowed:
            if (name := call["function"]["name"]) in theirs:
                step = await env.step(_action(call))
                if step.done:
                    return None
                made[id(call)] = _result(call, step.observation)
            elif name not in ours:
                known = ", ".join([*sorted(theirs), *sorted(ours)])
                made[id(call)] = _result(
                    call, f"Error: the tool '{name}' does not exist; choose one of {known}."
                )
        refused = (
            f"Error: this call was not executed, because a response may contain only {self._max_calls} calls."
        )
        return [made.get(id(call)) or _result(call, refused) for call in calls]


def _names(tools: Sequence[Tool]) -> set[str]:
    return {tool["function"]["name"] for tool in tools}


def _action(call: dict[str, Any]) -> str:
    function = call["function"]
    return json.dumps({"name": function["name"], "arguments": json.loads(function["arguments"])})


def _result(call: dict[str, Any], content: Content) -> Message:
    return {"role": "tool", "tool_call_id": call["id"], "name": call["function"]["name"], "content": content}
