"""Runs episodes with a model behind an endpoint, in the same environments and agents as with an areal engine.

Only the number of the model's tokens is known, as the endpoint reports it.
"""

from __future__ import annotations

import base64
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from areal.agents.interface import (
    Account,
    Agent,
    BadRequest,
    Endpoint,
    Message,
    PolicyFailed,
    Reply,
    SamplingLimits,
    Settings,
    Tool,
)
from areal.envs.pictures import words_of
from areal.evaluation.conversations import Chat
from areal.evaluation.endpoint import EndpointClient
from areal.evaluation.episodes import EpisodeOutcome
from areal.evaluation.responses import FAILED
from areal.images import to_png
from areal.rollout.endpoint.server import EndpointServer
from areal.rollout.engine import Sampling
from areal.rollout.environments import EnvironmentPool
from areal.rollout.episode import NothingSampled, RecordedEnv, nothing_sampled, one_conversation
from areal.rollout.model import EpisodeModel
from areal.rollout.opening import Opening
from areal.thoughts import thought_length


class EndpointModel(EpisodeModel):
    """The model behind an endpoint, in one episode.

    Attributes:
        tokens: number of sampled tokens so far, as the endpoint counts them.
        finish: how the last response ended; empty if there is none.
        conversations: all conversations so far.
        accounts: the records of the calls at each of its own endpoints.

    Args:
        server: the server at which programs reach the model.
        game: the model of the whole episode, if this model belongs to one of its players; calls count for
            both.
    """

    def __init__(
        self,
        endpoint: EndpointClient,
        sampling: Sampling,
        template_kwargs: Mapping[str, Any],
        server: EndpointServer | None = None,
        game: EndpointModel | None = None,
    ) -> None:
        super().__init__(sampling, game)
        self._endpoint = endpoint
        self._template_kwargs = template_kwargs
        self.tokens = 0
        self.finish = ""
        self.conversations: list[Chat] = []
        self.accounts: list[Account] = []
        self._server = server
        self._whole = game or self

    @asynccontextmanager
    async def endpoint(self, max_completions: int, settings: Settings = "ignore") -> AsyncIterator[Endpoint]:
        """Serve the model at a local address; see :class:`areal.agents.interface.Model`."""
        if self._server is None:
            raise ValueError("this model has no endpoint for programs")
        async with self._server.open(self, max_completions, settings) as at:
            self.accounts.append(at.account)
            yield at

    async def complete(self, text: str, *, limits: SamplingLimits | None = None) -> Reply:
        """Raise BadRequest: the endpoint serves only chat completions."""
        raise BadRequest("the model is behind an endpoint, which supports only chat completions")

    def count_tokens(self, messages: Sequence[Message], *, tools: Sequence[Tool] = ()) -> int:
        """Raise BadRequest: the model's tokens are not known."""
        raise BadRequest("the model is behind an endpoint, so its tokens cannot be counted")

    async def chat(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), limits: SamplingLimits | None = None
    ) -> Reply:
        """Respond to a whole history; see :class:`areal.agents.interface.Model`. The tokens are not known."""
        call = self._next_call()
        body = self._body(self._narrowed(call, limits or SamplingLimits()))
        given = {"tools": list(tools)} if tools else {}
        completion = await self._endpoint.ask({"messages": [*map(_sent, messages)], **body, **given})
        choice, used = completion["choices"][0], completion.get("usage") or {}
        message = choice.get("message") or {}
        text = message.get("content") or ""
        calls = message.get("tool_calls") or []
        ended = "length" if choice.get("finish_reason") == "length" else "stop"
        sampled = used.get("completion_tokens") or 0
        self._whole.tokens += sampled
        self._whole.finish = ended
        said = {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}
        self._record([*map(_kept, messages)], said)
        finish: Any = "tool_calls" if calls else ended
        # Environments do not see thoughts here either, if the server leaves them in the text.
        thought = thought_length(text, "")
        return Reply(said, text, finish, [], [], used.get("prompt_tokens") or 0, thought, sampled)

    def said(self) -> list[Chat]:
        """Return all conversations; with several players, each has its player's name."""
        found = list(self.conversations)
        for name, player in self.players.items():
            found += [replace(chat, player=name) for chat in player.conversations]
        return found

    def _new_player(self) -> EndpointModel:
        return EndpointModel(self._endpoint, self._sampling, self._template_kwargs, self._server, self)

    def _record(self, messages: list[Message], said: Message) -> None:
        """Record a request and its response, in place of the conversation that they continue."""
        for number, before in enumerate(self.conversations):
            if messages[: len(before.messages)] == before.messages:
                self.conversations[number] = Chat([*messages, said], before.given)
                return
        self.conversations.append(Chat([*messages, said], len(messages)))

    def _body(self, sampling: Sampling) -> dict[str, Any]:
        given = {
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": None if sampling.seed is None else sampling.seed % 2**31,  # the range that servers accept
            "stop": list(sampling.stop) or None,
            "top_k": sampling.top_k or None,  # these two are not part of OpenAI's protocol
            "min_p": sampling.min_p or None,
            "chat_template_kwargs": dict(self._template_kwargs) or None,  # the form of vLLM and SGLang
        }
        return {name: value for name, value in given.items() if value is not None}


def _sent(message: Message) -> Message:
    """Return a message with its images in the form of OpenAI's protocol."""
    if not isinstance(content := message.get("content"), list):
        return message
    return {**message, "content": [_sent_part(part) for part in content]}


def _sent_part(part: dict[str, Any]) -> dict[str, Any]:
    if part.get("type") != "image":
        return part
    png = base64.b64encode(to_png(part["image"])).decode("ascii")
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png}"}}


def _kept(message: Message) -> Message:
    """Return a message as text, for the record."""
    content = message.get("content")
    return {**message, "content": words_of(content)} if isinstance(content, list) else message


@dataclass(frozen=True, slots=True)
class EndpointWorker:
    """Runs episodes with a model behind an endpoint."""

    endpoint: EndpointClient
    agent: Agent
    pool: EnvironmentPool
    opening: Opening
    template_kwargs: Mapping[str, Any]
    server: EndpointServer | None = None

    async def run_episode(self, task: dict[str, Any], sampling: Sampling) -> EpisodeOutcome:
        """Run one episode of a task.

        Raises:
            EnvironmentFailure: the environment raised or hung.
            NothingSampled: the agent never called the model, or each of its calls was refused.
            UserError: there are several players, and the agent does not distinguish them.
        """
        started, failure = time.monotonic(), ""
        model = EndpointModel(self.endpoint, sampling, self.template_kwargs, self.server)
        async with self.pool.lend() as env:
            recorded = RecordedEnv(self.pool, env, task, model, self.opening)
            try:
                await self.agent.run(recorded, model)
                if model.players and model.conversations:
                    raise one_conversation(self.agent, model.players)
            except PolicyFailed as error:
                if not model.finish:
                    raise
                failure = str(error)
                model.set_reward(0.0)
        if not model.finish:
            raise NothingSampled(nothing_sampled(self.agent, model.accounts))
        return EpisodeOutcome(
            finish=FAILED if failure else model.finish,
            failure=failure,
            actions=recorded.actions,
            reward=model.reward,
            parts={} if failure else model.parts,
            tokens=model.tokens,
            seconds=time.monotonic() - started,
            env=recorded.member,
            expected=recorded.expected,
            conversations=model.said(),
        )
