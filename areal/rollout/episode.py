"""One episode: an agent, an environment and a model meet, and trajectories with a reward come out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from areal.agents.interface import Agent, Step
from areal.rollout.recorder import Recorder
from areal.trajectory import Episode


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


class Credited(Protocol):
    """Whoever learns what an episode earns."""

    def credit(self, reward: float, parts: dict[str, float] | None = None) -> None:
        """Add a reward, and its named parts, to the episode's."""
        ...


class RecordedEnv:
    """One episode of a Gymnasium environment as an agent sees it; the recorder learns what it earns.

    Attributes:
        member: which environment of a mixture it is, once it has begun.
        actions: of the agent so far.
    """

    def __init__(self, pool: EnvironmentPool, env: Any, task: dict[str, Any], recorder: Credited) -> None:
        self._pool = pool
        self._env = env
        self._task = task
        self._recorder = recorder
        self.member = ""
        self.actions: list[str] = []

    async def reset(self) -> str:
        """Begin the task's episode."""
        observation, info = await self._pool.call(self._env.reset, **self._task)
        self.member = str(info.get("env", ""))
        return observation

    async def step(self, action: str) -> Step:
        """Act."""
        self.actions.append(action)
        observation, reward, terminated, truncated, info = await self._pool.call(self._env.step, action)
        self._recorder.credit(float(reward), info.get("reward_parts"))
        return Step(observation, float(reward), terminated, truncated, info)


class NothingSampled(RuntimeError):
    """The agent never asked the model, so that there is nothing to train on."""


async def run_episode(agent: Agent, pool: EnvironmentPool, task: dict[str, Any], model: Recorder) -> Episode:
    """Play one episode and return what the learner needs of it.

    Args:
        agent: how the model acts.
        pool: where the environment comes from.
        task: keyword arguments of ``env.reset`` (``seed``, ``options``).
        model: a fresh handle on the engine.

    Raises:
        NothingSampled: the agent never asked the model.
    """
    started = time.time()
    env = await pool.acquire()
    recorded = RecordedEnv(pool, env, task, model)
    await agent.run(recorded, model)
    # After an error the environment is not reused: a step of it may still be running on its thread.
    pool.release(env)
    trajectories = model.trajectories()
    if not trajectories:
        raise NothingSampled(f"the agent {type(agent).__name__} ended the episode without asking the model")
    return Episode(
        trajectories,
        model.reward,
        model.parts,
        task,
        started,
        time.time(),
        env=recorded.member,
        actions=recorded.actions,
    )
