"""Typed Python functions as tools of a model: their schemas, their calls, and errors as observations."""

from __future__ import annotations

import asyncio
import inspect
import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from pydantic import ValidationError, validate_call

from areal.agents.interface import Message, Tool
from areal.envs.code import shortened
from areal.errors import UserError
from areal.sandbox.interface import SandboxUnavailable
from areal.spans import span
from areal.threads import CallThread

_OURS = (UserError, SandboxUnavailable, ConnectionError, TimeoutError)
"""Infrastructure failures, after which the episode runs again. The model sees all other errors."""


class ToolBox:
    """Functions by name.

    A tool is a function, ``async`` or not, with types and a Google-style docstring that describes its
    arguments.

    Args:
        functions: the tools.
        time_limit: time limit of one call, in seconds.
        max_abandoned: number of calls that may hang for more than twice the time limit.

    Attributes:
        schemas: their descriptions for the model.

    Raises:
        UserError: a function cannot be described, or two have the same name.
    """

    def __init__(
        self, functions: list[Callable[..., Any]], time_limit: float = 30.0, max_abandoned: int = 100
    ) -> None:
        self._time_limit = time_limit
        self._max_abandoned = max_abandoned
        self._functions = {function.__name__: validate_call(function) for function in functions}
        self._blocking = {f.__name__: not inspect.iscoroutinefunction(f) for f in functions}
        self._left: dict[CallThread, float] = {}  # abandoned calls, with the time when each was abandoned
        if len(self._functions) < len(functions):
            raise UserError(f"two tools have the same name: {', '.join(f.__name__ for f in functions)}")
        self.schemas = [schema(function) for function in functions]

    async def execute(self, call: dict[str, Any]) -> Message:
        """Execute a tool call in a reply's message, and return its result as a message.

        Raises:
            ConnectionError, TimeoutError, SandboxUnavailable, UserError: as the tool raised them.
            UserError: too many calls have not returned.
        """
        function = call["function"]
        with span("tool", function["name"]):
            result = await self._call(function["name"], json.loads(function["arguments"]))
        return {"role": "tool", "tool_call_id": call["id"], "name": function["name"], "content": result}

    async def _call(self, name: str, arguments: dict[str, Any]) -> str:
        function = self._functions.get(name)
        if function is None:
            return f"Error: the tool '{name}' does not exist; choose one of {', '.join(self._functions)}."
        try:
            async with asyncio.timeout(self._time_limit) as limit:
                call = partial(function, **arguments)
                found = await (self._on_a_thread(call) if self._blocking[name] else call())
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            return shortened(f"Error: {wrong}")
        except (Exception, SystemExit) as error:  # a tool may raise anything; the model reads what
            if limit.expired():
                self._check_what_is_left(name)
                return f"Error: the tool took longer than {self._time_limit:g} s."
            if isinstance(error, _OURS):
                raise
            return shortened(f"Error: {type(error).__name__}: {error}")
        return shortened(
            found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, default=str)
        )

    async def _on_a_thread(self, call: Callable[[], Any]) -> Any:
        """Execute a call on its own thread: if it hangs, nothing else waits for it, now or at the end."""
        thread = CallThread("areal-tool")
        try:
            found, error = await asyncio.wrap_future(thread.start(call))
        except asyncio.CancelledError:
            thread.give_up()
            self._left[thread] = time.monotonic()
            raise
        thread.end()
        if error is not None:
            raise error
        return found

    def _check_what_is_left(self, name: str) -> None:
        self._left = {thread: since for thread, since in self._left.items() if thread.alive}
        late = sum(time.monotonic() - since > self._time_limit for since in self._left.values())
        if late >= self._max_abandoned:
            raise UserError(
                f"{late} calls of tools, such as '{name}', have not returned after twice their time limit "
                f"of {self._time_limit:g} s; set time limits in the tools"
            )


def schema(function: Callable[..., Any]) -> Tool:
    """Return a function's description in OpenAI's format, from its types and its docstring.

    Raises:
        UserError: an argument has no type or no docstring.
    """
    from transformers.utils import get_json_schema
    from transformers.utils.chat_template_utils import DocstringParsingException, TypeHintParsingException

    try:
        found = get_json_schema(function)
    except (DocstringParsingException, TypeHintParsingException) as error:
        raise UserError(f"cannot describe the tool {function.__name__} to a model: {error}") from error
    found["function"].pop("return", None)
    return found
