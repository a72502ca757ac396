"""Episodes with a model behind an endpoint: the same environments and agents as with an engine of ours.

Nothing is known of the model's tokens but their number, as the endpoint reports it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from areal.agents.interface import Agent, Endpoint, Message, Reply, SamplingLimits, Tool
from areal.errors import UserError
from areal.evaluation.endpoint import EndpointClient
from areal.evaluation.episodes import EpisodeOutcome
from areal.rollout.engine import Sampling
from areal.rollout.environments import EnvironmentPool
from areal.rollout.episode import NothingSampled, RecordedEnv
from areal.rollout.opening import Opening
from areal.rollout.seeds import derive


class EndpointModel:
    """An :class:`areal.agents.interface.Model` behind an endpoint, in one episode.

    Attributes:
        reward, parts: of the episode so far.
        tokens: sampled so far, as the endpoint counts them.
        finish: how the last response ended; empty: none was asked for.
    """

    def __init__(
        self, endpoint: EndpointClient, sampling: Sampling, template_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        self._endpoint = endpoint
        self._sampling = sampling
        self._template_kwargs = dict(template_kwargs or {})
        self._own: list[Message] = []
        self._calls = 0
        self.reward = 0.0
        self.parts: dict[str, float] = {}
        self.tokens = 0
        self.finish = ""

    def set_opening(self, messages: Sequence[Message]) -> None:
        """Open the conversation of ``generate`` with these messages, before its first observation."""
        if not self._calls:
            self._own = list(messages)

    def credit(self, reward: float, parts: dict[str, float] | None = None) -> None:
        """Add a reward and its named parts."""
        self.reward += reward
        for name, value in ({"reward": reward} if parts is None else parts).items():
            self.parts[name] = self.parts.get(name, 0.0) + value

    def set_reward(self, reward: float) -> None:
        """Say what the episode is worth in all."""
        self.reward, self.parts = reward, {"reward": reward}

    def endpoint(self, max_completions: int) -> AbstractAsyncContextManager[Endpoint]:
        """Programs have to be given a model that runs here.

        Raises:
            UserError: always.
        """
        raise UserError(
            "a program is evaluated with a model that areal runs: give --model a folder or a hub id, not an "
            "endpoint"
        )

    async def generate(self, observation: str) -> str:
        """Say ``observation`` as the user and return the response's text."""
        messages = [*self._own, {"role": "user", "content": observation}]
        reply = await self.chat(messages)
        self._own = [*messages, reply.message]
        return reply.text

    async def chat(
        self, messages: Sequence[Message], *, tools: Sequence[Tool] = (), limits: SamplingLimits | None = None
    ) -> Reply:
        """Respond to a whole history; see :class:`areal.agents.interface.Model`. Tokens are not known."""
        call, self._calls = self._calls, self._calls + 1
        body = self._body(call, limits or SamplingLimits())
        completion = await self._endpoint.ask({"messages": list(messages), **body, **_tools(tools)})
        choice, used = completion["choices"][0], completion.get("usage") or {}
        message = choice.get("message") or {}
        text = message.get("content") or ""
        calls = message.get("tool_calls") or []
        ended = "length" if choice.get("finish_reason") == "length" else "stop"
        self.tokens += used.get("completion_tokens") or 0
        self.finish = ended
        said = {"role": "assistant", "content": text, **({"tool_calls": calls} if calls else {})}
        finish: Any = "tool_calls" if calls else ended
        return Reply(said, text, finish, [], [], used.get("prompt_tokens") or 0)

    def _body(self, call: int, limits: SamplingLimits) -> dict[str, Any]:
        sampling = self._sampling
        seed = limits.seed if limits.seed is not None else sampling.seed
        if seed is not None and limits.seed is None and call:
            seed = derive(seed, call)
        stop = [*sampling.stop, *limits.stop]
        given = {
            "max_tokens": min(sampling.max_tokens, limits.max_tokens or sampling.max_tokens),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": None if seed is None else seed % 2**31,  # what servers take
            "stop": stop or None,
            "top_k": sampling.top_k or None,  # these two are no part of OpenAI's protocol
            "min_p": sampling.min_p or None,
            "chat_template_kwargs": self._template_kwargs or None,  # as vLLM and SGLang take them
        }
        return {name: value for name, value in given.items() if value is not None}


def _tools(tools: Sequence[Tool]) -> dict[str, Any]:
    return {"tools": list(tools)} if tools else {}


class EndpointWorker:
    """Runs episodes with a model behind an endpoint."""

    def __init__(
        self,
        endpoint: EndpointClient,
        agent: Agent,
        pool: EnvironmentPool,
        opening: Opening = Opening(),  # noqa: B008 (it is frozen)
        template_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._opening = opening
        self._template_kwargs = dict(template_kwargs or {})
        self._agent = agent
        self._pool = pool

    async def run_episode(self, task: dict[str, Any], sampling: Sampling) -> EpisodeOutcome:
        """Run one episode of a task.

        Raises:
            EnvironmentFailure: the environment raised or hung.
            NothingSampled: the agent never asked the model.
        """
        started = time.monotonic()
        model = EndpointModel(self._endpoint, sampling, self._template_kwargs)
        async with self._pool.lend() as env:
            recorded = RecordedEnv(self._pool, env, task, model, self._opening)
            await self._agent.run(recorded, model)
        if not model.finish:
            raise NothingSampled(f"the agent {type(self._agent).__name__} never asked the model")
        return EpisodeOutcome(
            finish=model.finish,
            actions=recorded.actions,
            reward=model.reward,
            parts=model.parts,
            tokens=model.tokens,
            seconds=time.monotonic() - started,
            env=recorded.member,
        )

    def close(self) -> None:
        """Close the environments."""
        self._pool.close()
