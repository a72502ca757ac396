"""The interface of agents: an environment and a model. An agent is any object with ``run``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from areal.thoughts import words_of

Message = dict[str, Any]
"""A message in OpenAI's chat format: ``role``, ``content``, and, if present, ``tool_calls`` (their
arguments as a JSON string) and ``tool_call_id``."""

Content = str | list[dict[str, Any]]
"""Content of a message: text, or a list of parts. Each part is text, ``{"type": "text", "text": …}``, or an
image, ``{"type": "image", "image": …}``, as the bytes of a PNG file."""

Tool = dict[str, Any]
"""A tool in OpenAI's format: ``{"type": "function", "function": {"name", "description", "parameters"}}``."""


Settings = Literal["ignore", "refuse"]
"""How the endpoint treats a request for a sampling distribution other than that of the run."""


@dataclass(frozen=True, slots=True)
class Step:
    """The result of ``env.step``; ``done`` is ``terminated or truncated``."""

    observation: Content
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]

    @property
    def done(self) -> bool:
        """Whether the episode has ended."""
        return self.terminated or self.truncated


class Env(Protocol):
    """One episode of a Gymnasium environment. Calls run on a thread, so they may block on a verifier."""

    @property
    def tools(self) -> Sequence[Tool]:
        """Tools of the environment itself: ``info["tools"]`` of its reset.

        A call of such a tool is an action, ``{"name": …, "arguments": {…}}`` as JSON; the next observation is
        its result.
        """
        ...

    @property
    def player(self) -> str:
        """The player whose turn it is; empty if there is one. Only this player sees the last observation."""
        ...

    async def reset(self) -> Content:
        """Reset the environment and return the first observation."""
        ...

    async def open(self) -> list[Message]:
        """Reset the environment and return the messages with which the conversation begins.

        The last message is the observation, as a user message. A system message and earlier turns may precede
        it, from the problem or from the settings of the run (``chat``). ``model.generate`` puts them before
        its first observation, whether an agent calls ``reset`` or ``open``.
        """
        ...

    def opening(self) -> list[Message]:
        """Return the first messages of a player's conversation, if the last observation is its first.

        After ``open``, these are the messages that it returned.
        """
        ...

    async def step(self, action: str) -> Step:
        """Act as the player whose turn it is."""
        ...


@dataclass(frozen=True, slots=True)
class SamplingLimits:
    """Limits of one call, which restrict the sampling of the run and never extend it.

    Attributes:
        max_tokens: maximum length of the response; the limit of the run applies, too.
        stop: strings that end the response, in addition to those of the run; the engine must be started with
            them.
        seed: random seed of this call, instead of that of the run.
    """

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One response of the model.

    Attributes:
        message: the assistant's message. If its text contains calls in the model's format, they are in
            ``tool_calls``, and ``content`` is the rest of the text; otherwise ``content`` is the whole text.
        text: the sampled text, without special tokens.
        finish: ``tool_calls`` if there are calls, ``length`` if a limit ended the response, otherwise
            ``stop``.
        ids: the sampled tokens, and tokens inserted to end a thought whose budget was used up.
        logprobs: log-probability of each of them; 0 for inserted tokens.
        prompt_tokens: number of tokens of the prompt.
        thought: number of characters of the thought at the beginning of the message's content, including
            marks; only if the chat template marks thoughts.
        untold: number of sampled tokens that are not in ``ids``, because an endpoint reports only their
            number.
    """

    message: Message
    text: str
    finish: Literal["stop", "length", "tool_calls"]
    ids: list[int]
    logprobs: list[float]
    prompt_tokens: int
    thought: int = 0
    untold: int = 0

    @property
    def spoken(self) -> str:
        """The text without the thought, which environments judge; empty if the thought has no end."""
        return words_of(self.text) if self.thought else self.text


@dataclass(slots=True)
class Account:
    """Counts of the requests of a program in one episode, and what was refused.

    Attributes:
        asked: number of requests.
        completions: number of sampled completions.
        refused: number of requests that were refused permanently.
        refusal: the message of the first such refusal.
        unavailable: the message of the first refusal of a feature that the program requested and the endpoint
            does not have.
        exhausted: the message of the first refusal because the history was too long or no completions were
            left.
        aborted: number of completions that the engine aborted.
    """

    asked: int = 0
    completions: int = 0
    refused: int = 0
    refusal: str = ""
    unavailable: str = ""
    exhausted: str = ""
    aborted: int = 0

    def summary(self) -> str:
        """Describe what was refused; empty if nothing was."""
        if not self.refused:
            return ""
        asked = f"sent {self.asked} request{'s' * (self.asked != 1)} to the model"
        which = (
            ("" if self.asked == 1 else "each ") if self.refused >= self.asked else f"{self.refused} of them "
        )
        return f"{asked}, {which}refused: {self.refusal}"


class PolicyFailed(Exception):
    """The model's response made the agent fail: the episode gets the reward 0 and is trained on.

    Agents raise this. If nothing was sampled, there is nothing to train on, and the episode has failed.
    """


class BadRequest(ValueError):
    """The chat template rejects the messages, or the last message is the assistant's."""


class ConversationTooLong(RuntimeError):
    """The messages leave no room for a response."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The endpoint at which a program finds the model of one episode.

    Attributes:
        base_url: base URL for OpenAI's and Anthropic's clients.
        api_key: key for this episode only.
        reward: returns the reward that the program set (``POST /v1/reward``); None if it set none.
        account: account of the requests so far.
    """

    base_url: str
    api_key: str
    reward: Callable[[], float | None]
    account: Account = field(default_factory=Account)


class Model(Protocol):
    """The model in one episode; its responses are recorded and trained on."""

    async def generate(self, observation: Content) -> str:
        """Append ``observation`` as a user message, and return the response of the model, without thoughts.

        Raises:
            ConversationTooLong: there is no room for a response.
        """
        ...

    async def chat(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), limits: SamplingLimits | None = None
    ) -> Reply:
        """Respond to a complete history, whose last message must not be the assistant's.

        A history that continues an earlier response is recorded as the same conversation. Concurrent calls
        are allowed; a cancelled call leaves nothing behind.

        Raises:
            BadRequest: the model's chat template rejects the messages or the tools.
            ConversationTooLong: there is no room for a response.
        """
        ...

    def player(self, name: str) -> Model:
        """Return the same model as one of several players; the same object each time.

        It has separate conversations, which those of other players never continue, and is trained on the
        rewards of this player.
        """
        ...

    def set_reward(self, reward: float) -> None:
        """Set the reward of the whole episode, which replaces the rewards of the environment so far."""
        ...

    def endpoint(
        self, max_completions: int, settings: Settings = "ignore"
    ) -> AbstractAsyncContextManager[Endpoint]:
        """Serve the model at an address, for programs that use OpenAI's or Anthropic's API.

        Within the context, each request to the address is a call of :meth:`chat`. When the context ends, the
        requests in flight are cancelled and the key becomes invalid.

        Args:
            max_completions: maximum number of completions.
            settings: whether requests for a distribution other than that of the run are served with that of
                the run (``ignore``) or refused.
        """
        ...


class Agent(Protocol):
    """How a model acts in an environment. One object runs many episodes concurrently, without state."""

    async def run(self, env: Env, model: Model) -> None:
        """Run one episode to its end."""
        ...
