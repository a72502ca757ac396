"""An agent that calls tools, in the model's own format, through its chat template."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from areal.agents.chat import Chat, checked_limits
from areal.agents.interface import Env, Message, Model
from areal.agents.tools import ToolBox
from areal.registry import load_object

CALCULATOR = "areal.agents.calculator:calculator"


class ToolUse:
    """Makes the tool calls of the model's responses, all those of one response at once.

    A response without a call is the action in the environment. The model sees what a tool raises as the
    result of the call. When the turns are used up, the last response is the action, whatever it is.

    Args:
        tools: functions (areal.agents.tools), or their names as ``module:function`` or ``file.py:function``.
        system: a system message, in place of any other; None: that of the problem or of the setting
            ``chat.system``, else the chat template's own, if it has one.
        max_turns: responses of an episode, with and without calls.
        max_tokens: sampled tokens of an episode; None: no limit of its own.
        max_calls: calls of one response that are made; the others are refused.
        time_limit: seconds of one call.

    Raises:
        UserError: a tool does not exist or cannot be described, or a limit is below 1.
    """

    def __init__(
        self,
        tools: Sequence[Callable[..., Any] | str] = (CALCULATOR,),
        system: str | None = None,
        max_turns: int = 8,
        max_tokens: int | None = None,
        max_calls: int = 8,
        time_limit: float = 30.0,
    ) -> None:
        checked_limits("tool-use", min(max_turns, max_calls), max_tokens)
        self._box = ToolBox([load_object(t) if isinstance(t, str) else t for t in tools], time_limit)
        self._system = system
        self._limits = max_turns, max_tokens
        self._max_calls = max_calls

    async def run(self, env: Env, model: Model) -> None:
        """Run one episode."""
        opening = await env.open()
        if self._system is not None:
            turns = [message for message in opening if message["role"] != "system"]
            opening = [{"role": "system", "content": self._system}, *turns]
        chat = Chat(model, opening, *self._limits, tools=self._box.schemas)
        while (reply := await chat.ask()) is not None:
            calls = reply.message.get("tool_calls", ())
            if calls and not chat.over:
                made = await asyncio.gather(*(self._box.execute(call) for call in calls[: self._max_calls]))
                refused = [_refusal(call, self._max_calls) for call in calls[self._max_calls :]]
                chat.messages += [*made, *refused]
                continue
            step = await env.step(reply.text)
            if step.done:
                return
            chat.append(step.observation)


def _refusal(call: dict[str, Any], max_calls: int) -> Message:
    text = f"Error: not made: a response may have {max_calls} calls."
    return {"role": "tool", "tool_call_id": call["id"], "name": call["function"]["name"], "content": text}
