"""Typed Python functions as a model's tools: their schemas, their calls, and errors as observations."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError, validate_call

from areal.agents.interface import Message, Tool
from areal.envs.code import shortened
from areal.errors import UserError
from areal.sandbox.interface import SandboxUnavailable

_OURS = (UserError, SandboxUnavailable, ConnectionError, TimeoutError)
"""Failures of what a tool stands on: the episode is played again. All else is told to the model."""


class ToolBox:
    """Some functions by their names.

    A tool is a function, ``async`` or not, with types and a Google-style docstring that describes its
    arguments.

    Args:
        functions: the tools.
        time_limit: seconds of one call.

    Attributes:
        schemas: what the model is told of them.

    Raises:
        UserError: a function that cannot be described, or two of one name.
    """

    def __init__(self, functions: list[Callable[..., Any]], time_limit: float = 30.0) -> None:
        self._time_limit = time_limit
        self._functions = {function.__name__: validate_call(function) for function in functions}
        self._blocking = {f.__name__: not inspect.iscoroutinefunction(f) for f in functions}
        if len(self._functions) < len(functions):
            raise UserError(f"two tools have one name: {', '.join(f.__name__ for f in functions)}")
        self.schemas = [schema(function) for function in functions]

    async def answer(self, call: dict[str, Any]) -> Message:
        """Make a tool call of a reply's message, and return the message that answers it.

        Raises:
            ConnectionError, TimeoutError, SandboxUnavailable, UserError: as the tool raised them.
        """
        function = call["function"]
        result = await self._call(function["name"], json.loads(function["arguments"]))
        return {"role": "tool", "tool_call_id": call["id"], "name": function["name"], "content": result}

    async def _call(self, name: str, arguments: dict[str, Any]) -> str:
        function = self._functions.get(name)
        if function is None:
            return f"Error: there is no tool '{name}', only {', '.join(self._functions)}."
        try:
            async with asyncio.timeout(self._time_limit) as limit:
                if self._blocking[name]:
                    found = await asyncio.to_thread(function, **arguments)
                else:
                    found = await function(**arguments)
        except ValidationError as error:
            wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
            return shortened(f"Error: {wrong}")
        except Exception as error:
            if limit.expired():
                return f"Error: the tool took longer than {self._time_limit:g} s."
            if isinstance(error, _OURS):
                raise
            return shortened(f"Error: {type(error).__name__}: {error}")
        return shortened(
            found if isinstance(found, str) else json.dumps(found, ensure_ascii=False, default=str)
        )


def schema(function: Callable[..., Any]) -> Tool:
    """Return a function's description in OpenAI's form, from its types and its docstring.

    Raises:
        UserError: it has no types or no docstring for one of its arguments.
    """
    from transformers.utils import get_json_schema
    from transformers.utils.chat_template_utils import DocstringParsingException, TypeHintParsingException

    try:
        found = get_json_schema(function)
    except (DocstringParsingException, TypeHintParsingException) as error:
        raise UserError(f"the tool {function.__name__} cannot be described to a model: {error}") from error
    found["function"].pop("return", None)
    return found
