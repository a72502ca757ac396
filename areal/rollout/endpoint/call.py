"""What the three protocols have in common: one call of the model, and the refusal of a call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError
from pydantic_core import to_json

from areal.agents.interface import Limits, Message, Reply


class Refusal(Exception):
    """A call that is not answered; each protocol has its own form for it.

    Args:
        status: of HTTP.
        message: for the program's author: what is wrong, and what to do.
        code: OpenAI's word for it, if there is one.
        retry: whether the same call may succeed later; SDKs wait a second then and call again.
    """

    def __init__(self, status: int, message: str, code: str | None = None, retry: bool = False) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.retry = retry


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the model, whatever protocol it came by.

    Attributes:
        model: the name that the program gave; any will do, and the answer bears it.
        messages: of the conversation, in the form of ``Model.chat``.
        system: what a protocol says to the model apart from the conversation.
        previous: the response that this one goes on from (Responses), whose messages come before.
        tools: what the model may call, in OpenAI's chat form.
        limits: what this call narrows.
        count: how many answers are sampled.
        logprobs: whether the program wants the tokens' log-probabilities.
        stream: whether it wants the answer as events.
        usage_event: whether the events of a chat end with one on usage.
    """

    model: str
    messages: list[Message]
    system: str | None = None
    previous: str | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)
    limits: Limits = field(default_factory=Limits)
    count: int = 1
    logprobs: bool = False
    stream: bool = False
    usage_event: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said to a call.

    Attributes:
        id: of the answer, without the prefix that a protocol gives it.
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


def stop_place(call: Call, reply: Reply) -> tuple[int, str] | None:
    """Where in a reply the first of the call's own stop strings begins, and which it is, if one is there."""
    if reply.finish != "stop":
        return None
    found = [(place, text) for text in call.limits.stop if (place := reply.text.find(text)) >= 0]
    return min(found, default=None)


class Wire(Protocol):
    """How one protocol is spoken; the modules ``chat``, ``responses`` and ``messages`` are such."""

    def parse(self, body: bytes, temperature: float) -> Call:
        """Read a request.

        Raises:
            Refusal: it asks for what cannot be given.
        """
        ...

    def render(self, call: Call, answer: Answer) -> dict[str, Any]:
        """The answer as one object."""
        ...

    def stream(self, call: Call, answer: Answer) -> bytes:
        """The answer as server-sent events."""
        ...

    def error(self, refusal: Refusal) -> dict[str, Any]:
        """The body of a refusal."""
        ...


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
        raise Refusal(400, f"{place}: {first['msg']}" if place else first["msg"]) from error


_HARMLESS: dict[str, tuple[Any, ...]] = {
    "top_p": (1,),
    "top_k": (0, -1),
    "min_p": (0,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "min_tokens": (0,),
    "best_of": (1,),
    "logit_bias": ({},),
    "parallel_tool_calls": (True,),
    "truncation": ("disabled",),
    "background": (False,),
    # Older and other forms of tools and of modalities, and what vLLM's own server has besides.
    "functions": ([],),
    "function_call": ("auto", "none"),
    "modalities": (["text"],),
    "web_search_options": (),
    "mcp_servers": ([],),
    "ignore_eos": (False,),
    "stop_token_ids": ([],),
    "guided_json": (),
    "guided_regex": (),
    "guided_choice": (),
    "guided_grammar": (),
    "structured_outputs": (),
    "chat_template_kwargs": ({},),
    "continue_final_message": (False,),
}
"""Settings that would change what is sampled or said to the model, with the values that do not."""


def refuse_settings(given: Mapping[str, Any] | None, temperature: float) -> None:
    """Refuse a setting under which what is sampled is not what the learner computes.

    Args:
        given: the fields of a request that its form does not know.
        temperature: of the run.

    Raises:
        Refusal: there is one; a value that changes nothing passes.
    """
    for name, value in (given or {}).items():
        if name == "temperature" and value is not None and value != temperature:
            raise Refusal(
                400,
                f"temperature={value!r} is not the run's: this endpoint samples at {temperature:g}, as the "
                "learner computes; leave it out, or set rollout.temperature for the whole run",
            )
        if name in _HARMLESS and value is not None and value not in _HARMLESS[name]:
            raise Refusal(
                400,
                f"{name}={value!r} cannot be had: it would change the distribution that is sampled from, or "
                "what the model is told, and the learner knows of neither; leave it out",
            )


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
    raise Refusal(400, f"{place}: a part of type {kind!r} cannot be read; this endpoint knows text alone")


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
        Refusal: it has no name.
    """
    if not isinstance(name, str):
        raise Refusal(400, "tools: a tool has a name")
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": {k: v for k, v in function.items() if v is not None}}


def only_free_choice(choice: Any) -> bool:
    """Read ``tool_choice``; return whether tools are to be shown at all.

    Raises:
        Refusal: it forces the model to call a tool, which is no sample of the model.
    """
    kind = choice.get("type") if isinstance(choice, dict) else choice
    if kind not in (None, "auto", "none"):
        raise Refusal(
            400,
            f"tool_choice={choice!r} cannot be had: a forced call is no sample of the model; use 'auto' and "
            "ask for the call in the prompt",
        )
    if isinstance(choice, dict) and choice.get("disable_parallel_tool_use"):
        raise Refusal(400, "disable_parallel_tool_use cannot be had: it forces the model; leave it out")
    return kind != "none"


def stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    """Read stop strings.

    Raises:
        Refusal: an empty one.
    """
    found = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if "" in found:
        raise Refusal(400, "stop: an empty string would end every answer at once; leave it out")
    return found


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
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "server_error")
    return {"error": {"message": refusal.message, "type": kind, "param": None, "code": refusal.code}}
