"""What the protocols have in common: a request, its response, and the refusal of a request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from pydantic_core import to_json

from areal.agents.interface import Message, Model, Reply, SamplingLimits, Tool

_MAX_SHOWN = 80
"""Characters of a value in a refusal."""


@dataclass(eq=False)
class Refusal(Exception):
    """A request that is refused; each protocol has its own form for it.

    Attributes:
        message: for the program's author: what is wrong, and what to do.
        code: OpenAI's word for it, if there is one.
        retry: whether the same call may succeed later; SDKs wait a second then and call again.
        details: Anthropic's, for its SDK to act on.
        by_program: whether the program asked for it by itself, independently of what the model said.
    """

    status: int
    message: str
    code: str | None = None
    retry: bool = False
    details: dict[str, Any] | None = None
    by_program: bool = False

    def __str__(self) -> str:
        return self.message


@dataclass
class Reading:
    """A request while it is read.

    Attributes:
        temperature: the run's.
        ignore: whether settings that would change the sampling are ignored; otherwise the first one refuses
            the request.
        items: what the episode's responses (OpenAI's) are made of, by its id.
        ignored: the ignored settings, each as NAME=VALUE.
    """

    temperature: float
    ignore: bool = False
    items: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    def override(self, name: str, value: Any, why: str) -> None:
        """Note a setting that would change the sampling; ``why`` it is not applied."""
        if not self.ignore:
            raise unavailable(why)
        self.ignored.append(f"{name}={shown(value)}")

    def form(self, name: str, given: dict[str, Any], why: str) -> None:
        """Note a required format of the response, ``given`` with its type."""
        self.override(name, given["type"], why)


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One request to the model, whatever protocol it came by.

    Attributes:
        model: the name that the program gave; any will do, and the response bears it.
        messages: of the conversation, in the form of ``Model.chat``; one of the assistant's may have its
            ``thought`` apart.
        prompt: a text to go on with, in place of messages (Completions).
        system: what a protocol says to the model apart from the conversation.
        previous: the response that this one goes on from (Responses), whose messages come before.
        thoughts: whether the program is shown what a response thought.
        namespaces: for each tool that is of a namespace (Responses) that, and its name there.
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
    """What the model said to a request.

    Attributes:
        id: of the response, without the prefix that a protocol gives it.
        created: seconds since the epoch.
        replies: as many as the request asked for.
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
        return sum(len(reply.ids) + reply.untold for reply in self.replies)

    def logprobs(self, number: int) -> list[dict[str, Any]]:
        """Log-probability of each token of a reply, in OpenAI's form; only the sampled token's is known."""
        tokens = zip(self.texts[number], self.replies[number].logprobs, strict=True)
        return [
            {"token": text, "logprob": logprob, "bytes": list(text.encode()), "top_logprobs": []}
            for text, logprob in tokens
        ]


class ServedModel(Model, Protocol):
    """A model that an endpoint can serve."""

    async def complete(self, text: str, *, limits: SamplingLimits | None = None) -> Reply:
        """Go on with a text as it is, without the chat template.

        Raises:
            BadRequest: there is no text.
            ConversationTooLong: no room is left for a response.
        """
        ...

    def count_tokens(self, messages: Sequence[Message], *, tools: Sequence[Tool] = ()) -> int:
        """Return the number of tokens of the prompt that :meth:`chat` would respond to.

        Raises:
            BadRequest: the model's chat template does not take the messages or the tools.
        """
        ...


class WireFormat(Protocol):
    """How a protocol writes requests and responses: ``chat``, ``completions``, ``responses``, ``messages``.

    Attributes:
        SIGN_OF_LIFE: an event, or a comment, that says nothing.
    """

    SIGN_OF_LIFE: bytes

    def parse(self, body: bytes, reading: Reading) -> ModelRequest:
        """Read a request, and note the settings that are ignored."""
        ...

    def render(self, request: ModelRequest, response: ModelResponse) -> dict[str, Any]:
        """The response as one object."""
        ...

    def stream(self, request: ModelRequest, response: ModelResponse) -> bytes:
        """The response as server-sent events."""
        ...

    def error(self, refusal: Refusal) -> dict[str, Any]:
        """The body of a refusal."""
        ...

    def error_event(self, refusal: Refusal) -> bytes:
        """A refusal in a stream that has begun."""
        ...


def unavailable(message: str, details: dict[str, Any] | None = None) -> Refusal:
    """Return the refusal of something unavailable that the program asked for by itself."""
    return Refusal(400, message, details=details, by_program=True)


def shown(value: Any) -> str:
    """Return a value as a refusal names it: its beginning, where it is long."""
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"


def events(messages: Iterable[dict[str, Any]], named: bool) -> bytes:
    """Server-sent events with a JSON object each.

    Args:
        named: whether an event bears its object's ``type`` as its name.
    """
    parts = []
    for message in messages:
        if named:
            parts.append(b"event: " + message["type"].encode() + b"\n")
        parts.append(b"data: " + to_json(message) + b"\n\n")
    return b"".join(parts)


COMMENT = b": waiting\n\n"
"""A server-sent event that clients skip."""


def openai_usage(response: ModelResponse) -> dict[str, int]:
    """The tokens of a response as OpenAI's two older protocols have them."""
    prompt, sampled = response.prompt_tokens, response.sampled_tokens
    return {"prompt_tokens": prompt, "completion_tokens": sampled, "total_tokens": prompt + sampled}


def openai_error(refusal: Refusal) -> dict[str, Any]:
    """A refusal as OpenAI's protocols have it."""
    types = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = types.get(refusal.status, "invalid_request_error" if refusal.status < 500 else "server_error")
    return {"error": {"message": refusal.message, "type": kind, "param": None, "code": refusal.code}}


def openai_error_event(refusal: Refusal) -> bytes:
    """A refusal in a stream of chunks that has begun."""
    return events([openai_error(refusal)], named=False)
