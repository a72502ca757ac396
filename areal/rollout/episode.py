"""One episode: an agent, an environment and a model meet, and a trajectory comes out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from areal.agents.interface import Agent, Step
from areal.rollout.conversation import Conversation, Renderer
from areal.rollout.engine import Engine, Sampling
from areal.rollout.seeds import derive
from areal.trajectory import Finish, Trajectory


class EnvironmentPool:
    """Environment instances that are reused from episode to episode, and the threads that run them.

    ``step`` may block on a verifier, so it never runs on the event loop.
    """

    def __init__(self, make: Callable[[], Any], workers: int) -> None:
        self._make = make
        self._idle: list[Any] = []
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="areal-env")

    async def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run a blocking function on one of the threads."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(*args, **kwargs))

    async def acquire(self) -> Any:
        """Return an idle environment, made anew if there is none."""
        return self._idle.pop() if self._idle else await self.call(self._make)

    def release(self, env: Any) -> None:
        """Give an environment back for the next episode."""
        self._idle.append(env)

    def close(self) -> None:
        """Close every idle environment and the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        while self._idle:
            self._idle.pop().close()


class RecordedEnv:
    """One episode of a Gymnasium environment as an agent sees it; keeps what it earned."""

    def __init__(self, pool: EnvironmentPool, env: Any, task: dict[str, Any]) -> None:
        self._pool = pool
        self._env = env
        self._task = task
        self.reward = 0.0
        self.parts: dict[str, float] = {}
        self.info: dict[str, Any] = {}

    async def reset(self) -> str:
        """Begin the task's episode."""
        observation, self.info = await self._pool.call(self._env.reset, **self._task)
        return observation

    async def step(self, action: str) -> Step:
        """Act, and add up the reward and its named parts."""
        observation, reward, terminated, truncated, info = await self._pool.call(self._env.step, action)
        self.reward += float(reward)
        for name, value in info.get("reward_parts", {"reward": reward}).items():
            self.parts[name] = self.parts.get(name, 0.0) + float(value)
        self.info = info
        return Step(observation, float(reward), terminated, truncated, info)


class RecordedModel:
    """The model in one conversation, recording ids, log-probabilities and versions."""

    def __init__(self, engine: Engine, renderer: Renderer, sampling: Sampling, max_model_len: int) -> None:
        self._engine = engine
        self._renderer = renderer
        self._sampling = sampling
        self._max_model_len = max_model_len
        self.conversation = Conversation()
        self.finish: Finish = "eos"

    async def generate(self, observation: str) -> str:
        """Say ``observation`` as the user, sample the answer and return its text.

        Raises:
            ConversationTooLong: no room is left for an answer.
            GenerationAborted: the engine gave the answer up half-way.
        """
        talk = self.conversation
        if talk.ids:
            talk.say(self._renderer.continuation(observation, talk.ids[-1]))
        else:
            talk.say(self._renderer.opening([{"role": "user", "content": observation}]))
        room = self._max_model_len - len(talk.ids)
        if room < 1:
            raise ConversationTooLong(
                f"the conversation has {len(talk.ids)} tokens, and rollout.max_model_len is "
                f"{self._max_model_len}: raise it, or leave out long problems"
            )
        sampling = replace(
            self._sampling, max_tokens=min(self._sampling.max_tokens, room), seed=self._turn_seed()
        )
        completion = await self._engine.generate(list(talk.ids), sampling)
        if completion.finish == "abort":
            raise GenerationAborted(f"the engine gave up an answer after {len(completion.ids)} tokens")
        talk.hear(completion)
        self.finish = completion.finish
        return self._renderer.decode(completion.ids)

    def _turn_seed(self) -> int | None:
        """A seed for this turn: with the same one, turns would be sampled with the same noise."""
        seed, turn = self._sampling.seed, len(self.conversation.turns)
        return seed if seed is None or turn == 0 else derive(seed, turn)


class ConversationTooLong(RuntimeError):
    """The prompt leaves no room for an answer."""


class GenerationAborted(RuntimeError):
    """An answer is not whole: the episode failed, and is played again; none of it is trained on."""


async def run_episode(
    agent: Agent, pool: EnvironmentPool, task: dict[str, Any], model: RecordedModel
) -> Trajectory:
    """Play one episode and return what the learner needs of it.

    Args:
        agent: how the model acts.
        pool: where the environment comes from.
        task: keyword arguments of ``env.reset`` (``seed``, ``options``).
        model: a fresh handle on the engine.
    """
    started = time.time()
    env = await pool.acquire()
    recorded = RecordedEnv(pool, env, task)
    await agent.run(recorded, model)
    # After an error the environment is not reused: a step of it may still be running on its thread.
    pool.release(env)
    return Trajectory(
        **model.conversation.arrays(),
        reward=recorded.reward,
        reward_parts=recorded.parts,
        task=task,
        finish=model.finish,
        turns=model.conversation.turns,
        started=started,
        ended=time.time(),
    )
