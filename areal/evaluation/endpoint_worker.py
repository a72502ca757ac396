"""Episodes with a model behind an endpoint: the same environments and agents as with an engine of ours.

Nothing is known of the model's tokens but their number, as the endpoint reports it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

from areal.agents.interface import Agent, Endpoint, Message, Reply, SamplingLimits, Settings, Tool
from areal.errors import UserError
from areal.evaluation.conversations import Chat
from areal.evaluation.endpoint import EndpointClient
from areal.evaluation.episodes import EpisodeOutcome
from areal.rollout.engine import Sampling
from areal.rollout.environments import EnvironmentPool
from areal.rollout.episode import NothingSampled, RecordedEnv
from areal.rollout.model import EpisodeModel
from areal.rollout.opening import Opening


class EndpointModel(EpisodeModel):
    """The model behind an endpoint, in one episode.

    Attributes:
        tokens: sampled so far, as the endpoint counts them.
        finish: how the last response ended; empty: none was asked for.
        conversations: all so far.
    """

    def __init__(
        self, endpoint: EndpointClient, sampling: Sampling, template_kwargs: Mapping[str, Any]
    ) -> None:
        super().__init__(sampling)
        self._endpoint = endpoint
        self._template_kwargs = template_kwargs
        self.tokens = 0
        self.finish = ""
        self.conversations: list[Chat] = []

    def endpoint(
        self, max_completions: int, settings: Settings = "ignore"
    ) -> AbstractAsyncContextManager[Endpoint]:
        """Raise UserError: programs have to be given a model that runs here."""
        raise UserError(
            "a program is evaluated with a model that areal runs: give --model a folder or a hub id, not an "
            "endpoint"
        )

    async def chat(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), limits: SamplingLimits | None = None
    ) -> Reply:
        """Respond to a whole history; see :class:`areal.agents.interface.Model`. Tokens are not known."""
        call, self._calls = self._calls, self._calls + 1
        body = self._body(self._narrowed(call, limits or SamplingLimits()))
        given = {"tools": list(tools)} if tools else {}
        completion = await self._endpoint.ask({"messages": list(messages), **body, **given})
        choice, used = completion["choices"][0], completion.get("usage") or {}
        message = choice.get("message") or {}
        text = message.get("content") or ""
        calls = message.get("tool_calls") or []
        ended = "length" if choice.get("finish_reason") == "length" else "stop"
        self.tokens += used.get("completion_tokens") or 0
        self.finish = ended
        said = {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}
        self._record(list(messages), said)
        finish: Any = "tool_calls" if calls else ended
        return Reply(said, text, finish, [], [], used.get("prompt_tokens") or 0)

    def _record(self, messages: list[Message], said: Message) -> None:
        """Keep what was asked and said, in place of the conversation that it goes on with."""
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
            "seed": None if sampling.seed is None else sampling.seed % 2**31,  # what servers take
            "stop": list(sampling.stop) or None,
            "top_k": sampling.top_k or None,  # these two are no part of OpenAI's protocol
            "min_p": sampling.min_p or None,
            "chat_template_kwargs": dict(self._template_kwargs) or None,  # as vLLM and SGLang take them
        }
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True, slots=True)
class EndpointWorker:
    """Runs episodes with a model behind an endpoint."""

    endpoint: EndpointClient
    agent: Agent
    pool: EnvironmentPool
    opening: Opening
    template_kwargs: Mapping[str, Any]

    async def run_episode(self, task: dict[str, Any], sampling: Sampling) -> EpisodeOutcome:
        """Run one episode of a task.

        Raises:
            EnvironmentFailure: the environment raised or hung.
            NothingSampled: the agent never asked the model.
        """
        started = time.monotonic()
        model = EndpointModel(self.endpoint, sampling, self.template_kwargs)
        async with self.pool.lend() as env:
            recorded = RecordedEnv(self.pool, env, task, model, self.opening)
            await self.agent.run(recorded, model)
        if not model.finish:
            raise NothingSampled(f"the agent {type(self.agent).__name__} never asked the model")
        return EpisodeOutcome(
            finish=model.finish,
            actions=recorded.actions,
            reward=model.reward,
            parts=model.parts,
            tokens=model.tokens,
            seconds=time.monotonic() - started,
            env=recorded.member,
            expected=recorded.expected,
            conversations=model.conversations,
        )
