"""The common parts of the readers of the three protocols; each part of a request is read or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from areal.rollout.endpoint.wire import Reading, Refusal, shown, unavailable

MAX_CHOICES = 128
"""Maximum of ``n``, as in OpenAI's API."""
Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""Range of seeds that engines accept."""
_TEXTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}
"""Types of text parts, and the key of the text in each."""
_FORCED = ("required", "any", "function", "tool")
"""Names of tool choices that force the model to call a tool."""
ROLES = ("system", "developer", "user", "assistant")
"""Roles of OpenAI's messages; ``developer`` is another name for ``system``."""


class RequestForm(BaseModel):
    """The fields that are read in requests of any protocol; ``fields.look_at_fields`` checks the others."""

    model_config = ConfigDict(extra="allow", strict=True)
    model: str
    tools: list[dict[str, Any]] | None = None
    tool_choice: Any = None
    stream: bool | None = None


def read(form: type[BaseModel], body: bytes) -> Any:
    """Validate a request's body.

    Raises:
        Refusal: it is not JSON, or lacks a field; the message names the first such field.
    """
    try:
        return form.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        location = ".".join(map(str, first["loc"]))
        message = f"{location}: {first['msg']}" if location else first["msg"]
        raise Refusal(400, message, by_program=True) from error


def plain_text(content: Any, location: str) -> str:
    """Join the text parts of a message's content; None is empty text."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise Refusal(400, f"{location}: content must be a string or a list of parts")
    return "".join(_part_text(part, location) for part in content)


def _part_text(part: Any, location: str) -> str:
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    if isinstance(part, dict) and isinstance(kind, str) and kind in _TEXTS:
        text = part.get(_TEXTS[kind])
        if isinstance(text, str):
            return text
    raise Refusal(
        400,
        f"{location}: parts of type {shown(kind)} are not supported; this endpoint reads text, and images "
        "in user and tool messages",
    )


def role_of(message: dict[str, Any], location: str, known: tuple[str, ...] = ROLES) -> str:
    """Return the role of a message."""
    role = message.get("role")
    if role not in known:
        raise Refusal(400, f"{location}: role={shown(role)} is not one of {', '.join(known)}")
    return "system" if role == "developer" else role


def call_id(number: Any, location: str) -> str | None:
    """Return the id of the call whose result a message is."""
    if not isinstance(number, str | None):
        raise Refusal(400, f"{location}: the id of a tool call must be a string, not {shown(number)}")
    return number


def function_call(number: str, name: Any, arguments: Any, location: str) -> dict[str, Any]:
    """Return a tool call in OpenAI's chat form."""
    if not (isinstance(name, str) and isinstance(arguments, str) and isinstance(number, str)):
        raise Refusal(
            400, f"{location}: a tool call needs an id, a name and arguments, each of them a string"
        )
    return {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}


def function_tool(name: Any, description: Any, parameters: Any) -> dict[str, Any]:
    """Return a tool that the model may call, in OpenAI's chat form."""
    if not isinstance(name, str) or not name:
        raise Refusal(400, "tools: a tool needs a name")
    if not isinstance(description, str | None) or not isinstance(parameters, dict | None):
        raise Refusal(
            400, f"tools: the description of {name!r} must be a string, and its parameters an object"
        )
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": {k: v for k, v in function.items() if v is not None}}


def shown_tools(
    request: RequestForm,
    read_tool: Callable[[dict[str, Any], Reading], list[dict[str, Any]]],
    reading: Reading,
) -> list[dict[str, Any]]:
    """Return the tools for the model: those of a request, or the allowed ones among them.

    Args:
        read_tool: returns the functions of a tool, in OpenAI's chat form.

    Raises:
        Refusal: a tool is invalid; or the request forces the model to call a tool, which is not sampling from
            the model, and such settings are refused.
    """
    choice = request.tool_choice
    tools = [function for tool in request.tools or () for function in read_tool(tool, reading)]
    names = {tool["function"]["name"] for tool in tools}
    kind = choice.get("type") if isinstance(choice, dict) else choice
    if kind == "allowed_tools":
        within = choice.get("allowed_tools", choice)
        kind, names = _allowed(within if isinstance(within, dict) else {})
        tools = [tool for tool in tools if tool["function"]["name"] in names]
    if kind not in (None, "auto", "none"):
        why = (
            f"tool_choice={shown(choice)} is not available, because a forced call is not sampled from the "
            "model; use 'auto' and ask for the call in the prompt"
        )
        if kind not in _FORCED:
            raise unavailable(why)
        if isinstance(choice, dict) and (name := _name(choice)) not in {None, *names}:
            raise unavailable(f"tool_choice: {name!r} is not one of the tools in this request")
        reading.override("tool_choice", choice, why)
    if isinstance(choice, dict) and choice.get("disable_parallel_tool_use"):
        why = "disable_parallel_tool_use is not available, because it constrains the model; remove it"
        reading.override("disable_parallel_tool_use", True, why)
    return [] if kind == "none" else tools


def _allowed(given: dict[str, Any]) -> tuple[Any, set[Any]]:
    """Return the mode of a choice among several tools, and their names."""
    tools = given.get("tools")
    if not isinstance(tools, list) or not all(isinstance(tool, dict) for tool in tools):
        raise Refusal(400, "tool_choice: allowed_tools needs a mode and a list of tools")
    return given.get("mode"), {_name(tool) for tool in tools}


def _name(tool: dict[str, Any]) -> str | None:
    """Return the name of the selected function, in any protocol; None: no function is selected."""
    function = tool.get("function")
    name = tool.get("name", function.get("name") if isinstance(function, dict) else None)
    return name if isinstance(name, str) else None


def vendor_tool(kind: Any, reading: Reading) -> list[dict[str, Any]]:
    """Ignore or refuse a built-in tool of the vendor; return its functions, of which there are none."""
    why = f"tools: this endpoint has no built-in tools, so {shown(kind)} is not available"
    reading.override("tools", kind, why)
    return []
