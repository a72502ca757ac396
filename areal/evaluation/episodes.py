"""Runs the episodes of an evaluation concurrently; each response is passed on as soon as it is complete."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

from areal.agents.interface import BadRequest, ConversationTooLong
from areal.errors import AgentFailure, EnvironmentFailure, UserError, WorkerLost, explained
from areal.evaluation.conversations import Conversation
from areal.evaluation.responses import FAILED, Response
from areal.rollout.engine import Sampling
from areal.rollout.seeds import derive
from areal.rollout.worker import EpisodeRunner
from areal.thoughts import Thought
from areal.trajectory import Episode

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EpisodeOutcome:
    """The parts of an episode that an evaluation keeps; the attributes are those of :class:`Response`.

    Attributes:
        conversations: the conversations of the episode.
    """

    finish: str
    actions: list[str] = field(default_factory=list)
    reward: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0
    env: str = ""
    failure: str = ""
    expected: str = ""
    thoughts: list[Thought] = field(default_factory=list)
    conversations: Sequence[Conversation] = ()

    @classmethod
    def of(cls, episode: Episode) -> EpisodeOutcome:
        """Return the outcome of an episode that an areal engine generated."""
        return cls(
            finish=FAILED if episode.failure else episode.finish,
            actions=episode.actions,
            reward=episode.reward,
            parts=episode.reward_parts,
            tokens=episode.sampled,
            seconds=episode.ended - episode.started,
            env=episode.env,
            failure=episode.failure,
            expected=episode.expected,
            thoughts=[found for t in episode.trajectories for found in t.thoughts if found is not None],
            conversations=episode.trajectories,
        )

    def response(self, problem: int, sample: int, task: dict[str, Any]) -> Response:
        """Return the response to a problem: everything except the conversations."""
        facts = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "conversations"}
        return Response(problem, sample, task, **facts)


class EvaluationFailure(UserError):
    """An episode failed permanently, and not because of its agent; the exception's cause is the failure."""


Keep = Callable[[Response, Sequence[Conversation]], None]
"""Receives a response and the conversations of its episode."""
RunEpisode = Callable[[dict[str, Any], int], Awaitable[EpisodeOutcome]]
"""Runs one episode of a task (keyword arguments of ``env.reset``) with a sampling seed."""


def engine_runner(worker: EpisodeRunner, sampling: Sampling) -> RunEpisode:
    """Return a function that runs an episode with an areal engine."""

    async def run_episode(task: dict[str, Any], seed: int) -> EpisodeOutcome:
        return EpisodeOutcome.of(await worker.run_episode(task, replace(sampling, seed=seed)))

    return run_episode


async def sample_responses(
    run_episode: RunEpisode,
    tasks: Sequence[dict[str, Any]],
    samples: int,
    concurrency: int,
    seed: int,
    retries: int = 0,
    known: Sequence[Response] = (),
    keep: Keep = lambda response, said: None,
    max_failures: int = 8,
) -> list[Response]:
    """Run ``samples`` episodes of every task.

    A problem that leaves no room for a response gets the reward 0 and the finish ``too_long``. An episode
    whose agent fails after all retries gets the reward 0 and the finish ``failed``, unless all episodes fail.

    Args:
        seed: the seed from which, together with a response's place, its sampling seed is derived.
        retries: how often a failed episode is run again.
        known: responses that already exist and need no episode.
        keep: called with each response as soon as it is complete.
        max_failures: the evaluation ends if this number of episodes and one more fail before any succeeds.

    Returns:
        All responses, by problem and sample.

    Raises:
        UserError: the model refuses a request.
        EnvironmentFailure: an environment raised or hung.
        EvaluationFailure: an episode failed after all retries, and not because of its agent.
        AgentFailure: the agent failed in all episodes.
    """
    slots = asyncio.Semaphore(concurrency)
    responses = {(r.problem, r.sample): r for r in known}
    failures = _Failures(max_failures, keep, bool(known))

    async def add(problem: int, sample: int) -> None:
        async with slots:
            outcome, error = await _outcome(
                run_episode, tasks[problem], derive(seed, problem, sample), retries
            )
        response = responses[problem, sample] = outcome.response(problem, sample, tasks[problem])
        failures.add(response, outcome.conversations, error)

    places = [(problem, sample) for problem in range(len(tasks)) for sample in range(samples)]
    running = [asyncio.create_task(add(*place)) for place in places if place not in responses]
    try:
        await asyncio.gather(*running)
    finally:
        for episode in running:
            episode.cancel()
    failures.check()
    return [responses[place] for place in places]


class _Failures:
    """Distinguishes an agent that fails on some problems from one that always fails.

    No response is kept before one episode has succeeded.

    Args:
        max_failures: more failures than this, without a success, mean that the agent always fails.
        sound: whether an episode has already succeeded.
    """

    def __init__(self, max_failures: int, keep: Keep, sound: bool) -> None:
        self._max_failures = max_failures
        self._keep = keep
        self._sound = sound
        self._held: list[tuple[Response, Sequence[Conversation]]] = []
        self._first: AgentFailure | None = None

    def add(self, response: Response, said: Sequence[Conversation], error: AgentFailure | None) -> None:
        """Accept a response and its conversations; ``error`` is the failure of its agent."""
        self._first = self._first or error
        self._held.append((response, said))
        self._sound |= error is None
        if not self._sound and len(self._held) > self._max_failures:
            self.check()
        while self._sound and self._held:
            self._keep(*self._held.pop(0))

    def check(self) -> None:
        """Raise the agent's first failure if no episode has succeeded."""
        if self._first is not None and not self._sound:
            message = f"{self._first}; none of the {len(self._held)} episodes finished"
            raise type(self._first)(message) from self._first


async def _outcome(
    run_episode: RunEpisode, task: dict[str, Any], seed: int, retries: int
) -> tuple[EpisodeOutcome, AgentFailure | None]:
    """Run an episode, and retry it if necessary; return its outcome and its agent's failure, if any."""
    while True:
        try:
            return await run_episode(task, seed), None
        except BadRequest as error:
            raise UserError(
                f"the model rejects the request: {error}; if the sampling parameters are the cause, set "
                "evaluation.temperature, top_p, top_k or max_new_tokens"
            ) from error
        except ConversationTooLong as error:
            log.warning("a problem is too long (%s): %s", task, error)
            return EpisodeOutcome(finish="too_long"), None
        except (RuntimeError, OSError) as error:  # a verifier, a sandbox, a connection
            if retries:
                retries -= 1
                log.warning("an evaluation of %s failed and runs again: %r", task, error)
                continue
            if isinstance(error, AgentFailure):
                log.warning("an evaluation of %s failed, and counts as wrong: %s", task, error)
                return EpisodeOutcome(finish=FAILED, failure=str(error)), error
            if isinstance(error, EnvironmentFailure):
                raise
            raise _in_one_line(error, task) from error
        except (UserError, WorkerLost):
            raise
        except Exception as error:  # most likely from the user's agent
            raise _in_one_line(error, task) from error


def _in_one_line(error: Exception, task: dict[str, Any]) -> EvaluationFailure:
    log.error("an evaluation of %s failed in all attempts", task, exc_info=error)
    return EvaluationFailure(f"an episode of {task} failed: {explained(error, __file__)}")
