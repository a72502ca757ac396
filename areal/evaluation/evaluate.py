"""Responses to all problems of an evaluation, many at once, each handed on when it is there."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from areal.agents.interface import BadRequest, ConversationTooLong
from areal.errors import AgentFailure, EnvironmentFailure, UserError, WorkerLost, explained
from areal.evaluation.responses import Response
from areal.rollout.seeds import derive
from areal.trajectory import Episode

log = logging.getLogger(__name__)

FAILED = "failed"
"""How a response ended whose agent, or program, failed: it is wrong."""


@dataclass(frozen=True, slots=True)
class EpisodeOutcome:
    """What an evaluation keeps of an episode; the attributes are those of :class:`Response`."""

    finish: str
    actions: list[str] = field(default_factory=list)
    reward: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    seconds: float = 0.0
    env: str = ""
    failure: str = ""

    @classmethod
    def of(cls, episode: Episode) -> EpisodeOutcome:
        """Return the outcome of an episode that our engine generated."""
        return cls(
            finish=FAILED if episode.failure else episode.finish,
            actions=episode.actions,
            reward=episode.reward,
            parts=episode.reward_parts,
            tokens=episode.sampled,
            seconds=episode.ended - episode.started,
            env=episode.env,
            failure=episode.failure,
        )


class EvaluationFailure(UserError):
    """An episode failed for good, and not for its agent; what it failed of is the cause."""


RunEpisode = Callable[[dict[str, Any], int], Awaitable[EpisodeOutcome]]
"""Runs one episode of a task (keyword arguments of ``env.reset``) with a sampling seed."""


async def evaluate(
    run_episode: RunEpisode,
    tasks: Sequence[dict[str, Any]],
    samples: int,
    concurrency: int,
    seed: int,
    retries: int = 0,
    known: Sequence[Response] = (),
    keep: Callable[[Response], None] = lambda response: None,
    max_failures: int = 8,
) -> list[Response]:
    """Sample every task ``samples`` times.

    A problem that leaves no room for a response gets the reward 0, as ``too_long``; one whose agent fails for
    good, as ``failed``, unless it fails at all of them.

    Args:
        run_episode: runs one episode.
        tasks: the problems.
        samples: responses to each.
        concurrency: episodes in flight at once.
        seed: each response is sampled with a seed of its own, made of this one and its place.
        retries: how often an episode that fails is run again.
        known: responses that are there already.
        keep: called with each new response.
        max_failures: an agent that fails at more than so many responses, before any other, fails at all.

    Returns:
        All responses, by problem and sample.

    Raises:
        UserError: the model refuses a request.
        EnvironmentFailure: an environment raised or hung.
        EvaluationFailure: an episode failed for good for another reason that is not its agent.
        AgentFailure: the agent fails at all of them.
    """
    slots = asyncio.Semaphore(concurrency)
    responses = {(r.problem, r.sample): r for r in known}
    failed = _Failures(max_failures, keep, bool(known))

    async def one(problem: int, sample: int) -> None:
        async with slots:
            outcome = await _outcome(run_episode, tasks[problem], derive(seed, problem, sample), retries)
        error = outcome if isinstance(outcome, AgentFailure) else None
        if isinstance(outcome, AgentFailure):
            outcome = EpisodeOutcome(finish=FAILED, failure=str(outcome))
        response = Response(problem=problem, sample=sample, task=tasks[problem], **asdict(outcome))
        responses[problem, sample] = response
        failed.add(response, error)

    places = [(problem, sample) for problem in range(len(tasks)) for sample in range(samples)]
    running = [asyncio.create_task(one(*place)) for place in places if place not in responses]
    try:
        await asyncio.gather(*running)
    finally:
        for episode in running:
            episode.cancel()
    failed.check()
    return [responses[place] for place in places]


class _Failures:
    """Tells an agent that fails at some problems from one that fails at all; till then no response is kept.

    Args:
        max_failures: so many failures, and nothing else, and it is the second.
        keep: called with each response that counts.
        sound: whether something else is known already.
    """

    def __init__(self, max_failures: int, keep: Callable[[Response], None], sound: bool) -> None:
        self._max_failures = max_failures
        self._keep = keep
        self._sound = sound
        self._held: list[Response] = []
        self._first: AgentFailure | None = None

    def add(self, response: Response, error: AgentFailure | None) -> None:
        """Take a response; ``error`` is what its agent failed of."""
        self._first = self._first or error
        self._held.append(response)
        self._sound |= error is None
        if not self._sound and len(self._held) > self._max_failures:
            self.check()
        while self._sound and self._held:
            self._keep(self._held.pop(0))

    def check(self) -> None:
        """Raise what the agent failed of, if it did nothing else."""
        if self._first is not None and not self._sound:
            message = f"{self._first}; none of {len(self._held)} episodes came to its end"
            raise type(self._first)(message) from self._first


async def _outcome(
    run_episode: RunEpisode, task: dict[str, Any], seed: int, retries: int
) -> EpisodeOutcome | AgentFailure:
    while True:
        try:
            return await run_episode(task, seed)
        except BadRequest as error:
            raise UserError(
                f"the model refuses what it is asked: {error}; where that is the sampling, set "
                "evaluation.temperature, top_p, top_k or max_new_tokens"
            ) from error
        except ConversationTooLong as error:
            log.warning("a problem is too long (%s): %s", task, error)
            return EpisodeOutcome(finish="too_long")
        except (RuntimeError, OSError) as error:  # a verifier, a sandbox, a connection
            if retries:
                retries -= 1
                log.warning("an evaluation of %s failed and is run again: %r", task, error)
                continue
            if isinstance(error, AgentFailure):
                log.warning("an evaluation of %s failed for good, and counts as wrong: %s", task, error)
                return error
            if isinstance(error, EnvironmentFailure):
                raise
            raise _in_one_line(error, task) from error
        except (UserError, WorkerLost):
            raise
        except Exception as error:  # an agent of the user's, most likely
            raise _in_one_line(error, task) from error


def _in_one_line(error: Exception, task: dict[str, Any]) -> EvaluationFailure:
    log.error("an evaluation of %s failed for good", task, exc_info=error)
    return EvaluationFailure(f"an episode of {task} failed: {explained(error, __file__)}")
