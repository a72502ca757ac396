"""What an agent sees: an environment to act in and a model to ask. An agent is any object with ``run``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from areal.thoughts import words_of

Message = dict[str, Any]
"""A message in OpenAI's chat format: ``role``, ``content``, and where it has them ``tool_calls`` (their
arguments as a JSON string) and ``tool_call_id``."""

Content = str | list[dict[str, Any]]
"""Of a message: text, or parts, each of them text, ``{"type": "text", "text": …}``, or a picture, ``{"type":
"image", "image": …}``, as the bytes of a PNG file."""

Tool = dict[str, Any]
"""A tool in OpenAI's form: ``{"type": "function", "function": {"name", "description", "parameters"}}``."""


Settings = Literal["ignore", "refuse"]
"""What becomes of a program's wish for another distribution over responses than the run's."""


@dataclass(frozen=True, slots=True)
class Step:
    """What ``env.step`` returned; ``done`` is terminated or truncated."""

    observation: Content
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return self.terminated or self.truncated


class Env(Protocol):
    """One episode of a Gymnasium environment; calls run on a thread, so they may block on a verifier."""

    @property
    def tools(self) -> Sequence[Tool]:
        """Tools that the environment itself has: ``info["tools"]`` of its reset.

        A call of one is an action, ``{"name": …, "arguments": {…}}`` as JSON; the next observation is its
        result.
        """
        ...

    @property
    def player(self) -> str:
        """Whose turn it is, for whom alone the last observation is; empty where there is one player."""
        ...

    async def reset(self) -> Content:
        """Reset the environment and return the first observation."""
        ...

    async def open(self) -> list[Message]:
        """Reset the environment and return the messages that the conversation opens with.

        The last one is the observation, as a user message. Before it there may be a system message and
        earlier turns, which come from the problem itself or from the run's settings (``chat``). Whether an
        agent calls ``reset`` or ``open``, ``model.generate`` puts them before its first observation.
        """
        ...

    def opening(self) -> list[Message]:
        """Return the messages that a player's conversation opens with, if the last observation is its first.

        After ``open`` these are what it returned.
        """
        ...

    async def step(self, action: str) -> Step:
        """Act, as the player whose turn it is."""
        ...


@dataclass(frozen=True, slots=True)
class SamplingLimits:
    """What one call may narrow of the run's own sampling. It never widens it.

    Attributes:
        max_tokens: longest response; the run's own limit holds besides.
        stop: strings that end the response, besides the run's own; the engine must be started with them.
        seed: of this call's sampling, in place of the run's.
    """

    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None


@dataclass(frozen=True, slots=True)
class Reply:
    """One response of the model.

    Attributes:
        message: the assistant's message; ``tool_calls`` are there if its text is calls in the model's own
            format, and ``content`` is then what stands beside them; else ``content`` is the text.
        text: the text that was sampled, without special tokens.
        finish: ``tool_calls`` if there are any, ``length`` if a limit ended it, else ``stop``.
        ids: the sampled tokens, and what was put in to end a thought that had used up its budget.
        logprobs: of each of them; 0 of what was put in.
        prompt_tokens: of the prompt.
        thought: how many characters of the message's content are what it thought, marks included, before it
            spoke; only where the chat template marks thoughts.
        untold: how many tokens were sampled besides ``ids``: those of a model behind another endpoint, which
            says their number alone.
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
        """The text without what it thought; empty if its thought has no end. Environments judge this."""
        return words_of(self.text) if self.thought else self.text


@dataclass(slots=True)
class Account:
    """Counts of the calls that a program made in one episode, and what was refused.

    Attributes:
        asked: calls that arrived.
        completions: how many were sampled.
        refused: calls that were refused for good.
        refusal: the message of the first of those.
        unavailable: the message of the first refusal of something that the endpoint does not offer, which the
            program asked for by itself.
        exhausted: the message of the first refusal because the history was too long, or because no completion
            was left.
        aborted: completions that the engine gave up half-way.
    """

    asked: int = 0
    completions: int = 0
    refused: int = 0
    refusal: str = ""
    unavailable: str = ""
    exhausted: str = ""
    aborted: int = 0

    def summary(self) -> str:
        """Return what was refused, in words; empty if nothing was."""
        if not self.refused:
            return ""
        asked = f"asked the model {self.asked} time{'s' * (self.asked != 1)}"
        which = (
            ("" if self.asked == 1 else "each ") if self.refused >= self.asked else f"{self.refused} of them "
        )
        return f"{asked}, {which}refused: {self.refusal}"


class PolicyFailed(Exception):
    """The model's response made its agent fail: the episode has the reward 0 and is trained on.

    Agents raise it. If nothing was sampled, there is nothing to train on, and the episode has failed.
    """


class BadRequest(ValueError):
    """The model cannot respond to the messages: its chat template refuses them, or they end with its own."""


class ConversationTooLong(RuntimeError):
    """The messages leave no room for a response."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a program finds the model of one episode.

    Attributes:
        base_url: as OpenAI's and Anthropic's clients take it.
        api_key: of this episode alone.
        reward: returns the reward that the program set (``POST /v1/reward``); None if it set none.
        account: of its calls so far.
    """

    base_url: str
    api_key: str
    reward: Callable[[], float | None]
    account: Account = field(default_factory=Account)


class Model(Protocol):
    """The model in one episode; everything it says is recorded and trained on."""

    async def generate(self, observation: Content) -> str:
        """Append ``observation`` as a user message, and return what the model says, without its thoughts.

        Raises:
            ConversationTooLong: no room is left for a response.
        """
        ...

    async def chat(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), limits: SamplingLimits | None = None
    ) -> Reply:
        """Respond to a whole history, whose last message is not the assistant's.

        A history that goes on from an earlier response is recorded as the same conversation. Calls may run at
        once; a call that is cancelled leaves nothing behind.

        Raises:
            BadRequest: the model's chat template does not take the messages or the tools.
            ConversationTooLong: no room is left for a response.
        """
        ...

    def player(self, name: str) -> Model:
        """Return the same model as one of several players; the same object each time.

        What is said to it and by it is in conversations of its own, which no other player's continue, and is
        trained on by what this player earns.
        """
        ...

    def set_reward(self, reward: float) -> None:
        """Set the reward of the whole episode, in place of what the environment has given so far."""
        ...

    def endpoint(
        self, max_completions: int, settings: Settings = "ignore"
    ) -> AbstractAsyncContextManager[Endpoint]:
        """Give the model an address, for programs that speak OpenAI's or Anthropic's protocol.

        Inside the context, each request to the address is a call of :meth:`chat`. When the context ends, the
        requests in flight are cancelled and the key becomes invalid.

        Args:
            max_completions: how many may be sampled.
            settings: whether wishes for another distribution than the run's are ignored, or refuse the call.
        """
        ...


class Agent(Protocol):
    """How a model acts in an environment. One object runs many episodes at once: keep no state on it."""

    async def run(self, env: Env, model: Model) -> None:
        """Run one episode to its end."""
        ...
