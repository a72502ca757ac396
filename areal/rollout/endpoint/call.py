"""What the three protocols have in common: one call of the model, and the refusal of a call."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, Field, ValidationError
from pydantic_core import to_json

from areal.agents.interface import Message, Reply, SamplingLimits

Seed = Annotated[int, Field(ge=0, lt=2**63)]
"""What engines take as a seed."""
_LONGEST = 80
"""Characters of a value in a refusal."""


class Refusal(Exception):
    """A call that is refused; each protocol has its own form for it.

    Args:
        status: of HTTP.
        message: for the program's author: what is wrong, and what to do.
        code: OpenAI's word for it, if there is one.
        retry: whether the same call may succeed later; SDKs wait a second then and call again.
        details: Anthropic's, for its SDK to act on.
        by_program: whether the program asked for it of its own accord, whatever the model said to it.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        retry: bool = False,
        details: dict[str, Any] | None = None,
        by_program: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.retry = retry
        self.details = details
        self.by_program = by_program


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the model, whatever protocol it came by.

    Attributes:
        model: the name that the program gave; any will do, and the response bears it.
        messages: of the conversation, in the form of ``Model.chat``.
        system: what a protocol says to the model apart from the conversation.
        previous: the response that this one goes on from (Responses), whose messages come before.
        tools: what the model may call, in OpenAI's chat form.
        limits: what this call narrows.
        count: how many completions are sampled.
        logprobs: whether the program wants the tokens' log-probabilities.
        stream: whether it wants the response as events.
        usage_event: whether the events of a chat end with one on usage.
    """

    model: str
    messages: list[Message]
    system: str | None = None
    previous: str | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)
    limits: SamplingLimits = field(default_factory=SamplingLimits)
    count: int = 1
    logprobs: bool = False
    stream: bool = False
    usage_event: bool = False


@dataclass(frozen=True, slots=True)
class ModelResponse:
    """What the model said to a call.

    Attributes:
        id: of the response, without the prefix that a protocol gives it.
        created: seconds since the epoch.
        replies: as many as the call asked for.
        texts: for each reply the text of each of its tokens, where log-probabilities are wanted.
    """

    id: str
    created: int
    replies: list[Reply]
    texts: list[list[str]] = field(default_factory=list)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, counted once."""
        return self.replies[0].prompt_tokens

    @property
    def sampled_tokens(self) -> int:
        """Tokens of all replies."""
        return sum(len(reply.ids) for reply in self.replies)

    def logprobs(self, number: int) -> list[dict[str, Any]]:
        """Log-probability of each token of a reply, in OpenAI's form; only the sampled token's is known."""
        tokens = zip(self.texts[number], self.replies[number].logprobs, strict=True)
        return [
            {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
            for text, logprob in tokens
        ]


class Wire(Protocol):
    """How one protocol is spoken; the modules ``chat``, ``responses`` and ``messages`` are such."""

    def parse(self, body: bytes, temperature: float) -> Call:
        """Read a request.

        Raises:
            Refusal: it asks for what cannot be given.
        """
        ...

    def render(self, call: Call, response: ModelResponse) -> dict[str, Any]:
        """The response as one object."""
        ...

    def stream(self, call: Call, response: ModelResponse) -> bytes:
        """The response as server-sent events."""
        ...

    def error(self, refusal: Refusal) -> dict[str, Any]:
        """The body of a refusal."""
        ...


def unavailable(message: str, details: dict[str, Any] | None = None) -> Refusal:
    """A refusal of what a program asks for of its own accord, whatever the model said to it."""
    return Refusal(400, message, details=details, by_program=True)


def shown(value: Any) -> str:
    """Return a value as a refusal names it: its beginning, where it is long."""
    text = repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def read(form: type[BaseModel], body: bytes) -> Any:
    """Validate a request's body.

    Raises:
        Refusal: it is not JSON, or lacks something; the message names the first such place.
    """
    try:
        return form.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise Refusal(400, f"{place}: {first['msg']}" if place else first["msg"], by_program=True) from error


def plain_text(content: Any, place: str) -> str:
    """Join the text parts of a message's content; None is no text.

    Raises:
        Refusal: a part is no text.
    """
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise Refusal(400, f"{place}: content is a string or a list of parts")
    return "".join(_part_text(part, place) for part in content)


def _part_text(part: Any, place: str) -> str:
    if isinstance(part, dict) and part.get("type") in ("text", "input_text", "output_text"):
        text = part.get("text")
        if isinstance(text, str):
            return text
    kind = part.get("type") if isinstance(part, dict) else type(part).__name__
    raise Refusal(
        400, f"{place}: a part of type {shown(kind)} cannot be read; this endpoint knows text alone"
    )


ROLES = ("system", "developer", "user", "assistant")
"""Roles of OpenAI's messages; the developer is the system's other name."""


def role_of(message: dict[str, Any], place: str, known: tuple[str, ...] = ROLES) -> str:
    """Return the role of a message.

    Raises:
        Refusal: it is none of those.
    """
    role = message.get("role")
    if role not in known:
        raise Refusal(400, f"{place}: role={shown(role)} is none of {', '.join(known)}")
    return "system" if role == "developer" else role


def call_id(number: Any, place: str) -> str | None:
    """Return the id of the call that a message is the result of.

    Raises:
        Refusal: it is no string.
    """
    if not isinstance(number, str | None):
        raise Refusal(400, f"{place}: the id of a tool's call is a string, not {shown(number)}")
    return number


def function_call(number: str, name: Any, arguments: Any, place: str) -> dict[str, Any]:
    """One call of a tool, in OpenAI's chat form.

    Raises:
        Refusal: it has no name or no arguments.
    """
    if not (isinstance(name, str) and isinstance(arguments, str) and isinstance(number, str)):
        raise Refusal(400, f"{place}: a call of a tool has an id, a name and arguments, each a string")
    return {"id": number, "type": "function", "function": {"name": name, "arguments": arguments}}


def function_tool(name: Any, description: Any, parameters: Any) -> dict[str, Any]:
    """A tool that the model may call, in OpenAI's chat form.

    Raises:
        Refusal: it has no name, or something else is not of its kind.
    """
    if not isinstance(name, str) or not name:
        raise Refusal(400, "tools: a tool has a name")
    if not isinstance(description, str | None) or not isinstance(parameters, dict | None):
        raise Refusal(
            400, f"tools: the description of {name!r} is a string, and its parameters are an object"
        )
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": {k: v for k, v in function.items() if v is not None}}


def only_free_choice(choice: Any) -> bool:
    """Read ``tool_choice``; return whether tools are to be shown at all.

    Raises:
        Refusal: it forces the model to call a tool, which is no sample of the model.
    """
    kind = choice.get("type") if isinstance(choice, dict) else choice
    if kind not in (None, "auto", "none"):
        raise unavailable(
            f"tool_choice={shown(choice)} cannot be had: a forced call is no sample of the model; use 'auto' "
            "and ask for the call in the prompt"
        )
    if isinstance(choice, dict) and choice.get("disable_parallel_tool_use"):
        raise unavailable("disable_parallel_tool_use cannot be had: it forces the model; leave it out")
    return kind != "none"


def events(messages: Iterable[dict[str, Any]], named: bool) -> bytes:
    """Server-sent events with a JSON object each.

    Args:
        messages: one for each event.
        named: whether an event bears its object's ``type`` as its name.
    """
    parts = []
    for message in messages:
        if named:
            parts.append(b"event: " + message["type"].encode() + b"\n")
        parts.append(b"data: " + to_json(message) + b"\n\n")
    return b"".join(parts)


def openai_error(refusal: Refusal) -> dict[str, Any]:
    """A refusal as OpenAI's two protocols have it."""
    types = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = types.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "server_error")
    return {"error": {"message": refusal.message, "type": kind, "param": None, "code": refusal.code}}
