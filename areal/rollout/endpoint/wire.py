"""The common parts of the protocols: a request, its response, and the refusal of a request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic_core import to_json

from areal.agents.interface import Message, Model, Reply, SamplingLimits, Tool

CLIENT_GONE = 499
"""Status of a request whose client no longer waits: it disconnected, or was cancelled or killed."""
_MAX_SHOWN = 80
"""Maximum characters of a value in a refusal."""


@dataclass(eq=False)
class Refusal(Exception):
    """A refused request; each protocol has its own form of refusals.

    Attributes:
        message: explains to the program's author what is wrong and what to do.
        code: OpenAI's term for it, if there is one.
        retry: whether the same call may succeed later; SDKs then call again after a second.
        details: Anthropic's details, on which its SDK acts.
        by_program: whether the program caused it, independently of the model's responses.
    """

    status: int
    message: str
    code: str | None = None
    retry: bool = False
    details: dict[str, Any] | None = None
    by_program: bool = False

    def __str__(self) -> str:
        return self.message

    @property
    def is_final(self) -> bool:
        """Whether it counts: the call cannot succeed later, and its client waits for the response."""
        return not self.retry and self.status != CLIENT_GONE


@dataclass
class Reading:
    """The state of reading a request.

    Attributes:
        temperature: temperature of the run.
        ignore: whether settings that would change the sampling are ignored; otherwise the request is refused
            at the first one.
        items: the items of the episode's responses (OpenAI's), by id.
        ignored: the ignored settings, each as NAME=VALUE.
    """

    temperature: float
    ignore: bool = False
    items: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    def override(self, name: str, value: Any, why: str) -> None:
        """Record a setting that would change the sampling; ``why`` explains why it is not applied."""
        if not self.ignore:
            raise unavailable(why)
        self.ignored.append(f"{name}={shown(value)}")

    def form(self, name: str, given: dict[str, Any], why: str) -> None:
        """Record a required format of the response, ``given`` with its type."""
        self.override(name, given["type"], why)


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One request to the model, in any protocol.

    Attributes:
        model: the model name of the program; any name is valid, and the response repeats it.
        messages: messages of the conversation, in the form of ``Model.chat``; those of the assistant may have
            a separate ``thought``.
        prompt: a text to continue, in place of messages (Completions).
        system: system text that a protocol sends separately from the conversation.
        previous: the response that this request continues (Responses), whose messages come first.
        thoughts: whether the program receives the thought of a response.
        namespaces: for each tool in a namespace (Responses), the namespace and the tool's name in it.
        usage_event: whether the events of a chat end with one on usage.
    """

    model: str
    messages: list[Message]
    prompt: str | None = None
    system: str | None = None
    previous: str | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)
    namespaces: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    limits: SamplingLimits = field(default_factory=SamplingLimits)
    count: int = 1
    logprobs: bool = False
    stream: bool = False
    usage_event: bool = False
    thoughts: bool = True


@dataclass(frozen=True, slots=True)
class ModelResponse:
    """The model's response to a request.

    Attributes:
        id: id of the response, without the prefix of a protocol.
        created: time in seconds since the epoch.
        replies: the replies, as many as requested.
        texts: for each reply, the text of each of its tokens, if log-probabilities are requested.
    """

    id: str
    created: int
    replies: list[Reply]
    texts: list[list[str]] = field(default_factory=list)

    @property
    def prompt_tokens(self) -> int:
        """Number of tokens of the prompt, counted once."""
        return self.replies[0].prompt_tokens

    @property
    def sampled_tokens(self) -> int:
        """Number of tokens of all replies."""
        return sum(len(reply.ids) + reply.untold for reply in self.replies)

    def logprobs(self, number: int) -> list[dict[str, Any]]:
        """Return the log-probabilities of a reply's tokens in OpenAI's form, without other tokens'."""
        tokens = zip(self.texts[number], self.replies[number].logprobs, strict=True)
        return [
            {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
            for text, logprob in tokens
        ]


class ServedModel(Model, Protocol):
    """A model that an endpoint can serve."""

    async def complete(self, text: str, *, limits: SamplingLimits | None = None) -> Reply:
        """Continue a text as it is, without the chat template.

        Raises:
            BadRequest: the text is empty.
            ConversationTooLong: there is no room for a response.
        """
        ...

    def count_tokens(self, messages: Sequence[Message], *, tools: Sequence[Tool] = ()) -> int:
        """Return the number of tokens of the prompt that :meth:`chat` would use.

        Raises:
            BadRequest: the model's chat template does not accept the messages or the tools.
        """
        ...


class WireFormat(Protocol):
    """A protocol's form of requests and responses: ``chat``, ``completions``, ``responses``, ``messages``.

    Attributes:
        SIGN_OF_LIFE: an event, or a comment, without content.
    """

    SIGN_OF_LIFE: bytes

    def parse(self, body: bytes, reading: Reading) -> ModelRequest:
        """Read a request, and record the settings that are ignored."""
        ...

    def render(self, request: ModelRequest, response: ModelResponse) -> dict[str, Any]:
        """Return the response as one object."""
        ...

    def stream(self, request: ModelRequest, response: ModelResponse) -> bytes:
        """Return the response as server-sent events."""
        ...

    def error(self, refusal: Refusal) -> dict[str, Any]:
        """Return the body of a refusal."""
        ...

    def error_event(self, refusal: Refusal) -> bytes:
        """Return a refusal in a stream that has begun."""
        ...


def unavailable(message: str, details: dict[str, Any] | None = None) -> Refusal:
    """Return the refusal of something unavailable that the program itself has requested."""
    return Refusal(400, message, details=details, by_program=True)


def shown(value: Any) -> str:
    """Return a value for the message of a refusal; only its beginning, if it is long."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def events(messages: Iterable[dict[str, Any]], named: bool) -> bytes:
    """Return server-sent events with one JSON object each.

    Args:
        named: whether an event's name is the ``type`` of its object.
    """
    parts = []
    for message in messages:
        if named:
            parts.append(b"event: " + message["type"].encode() + b"\n")
        parts.append(b"data: " + to_json(message) + b"\n\n")
    return b"".join(parts)


COMMENT = b": waiting\n\n"
"""A server-sent event that clients ignore."""


def openai_usage(response: ModelResponse) -> dict[str, int]:
    """Return the tokens of a response in the form of OpenAI's two older protocols."""
    prompt, sampled = response.prompt_tokens, response.sampled_tokens
    return {"prompt_tokens": prompt, "completion_tokens": sampled, "total_tokens": prompt + sampled}


def openai_error(refusal: Refusal) -> dict[str, Any]:
    """Return a refusal in the form of OpenAI's protocols."""
    types = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = types.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "server_error")
    return {"error": {"message": refusal.message, "type": kind, "param": None, "code": refusal.code}}


def openai_error_event(refusal: Refusal) -> bytes:
    """Return a refusal in a stream of chunks that has begun."""
    return events([openai_error(refusal)], named=False)
