"""Keeps generation busy: starts groups when the gate opens, retries failed episodes, and returns batches.

Everything runs on one event loop. The learner does not block it, so generation continues during an update.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from areal.agents.interface import ConversationTooLong
from areal.errors import AgentFailure, EnvironmentFailure, UserError, WorkerLost, explained
from areal.rollout.admission import Admission
from areal.trajectory import Episode, Group

log = logging.getLogger(__name__)


class EpisodeId(NamedTuple):
    """An episode of a run: its group, its index in the group, and the attempt (0 unless one failed)."""

    group: int
    member: int
    attempt: int


RunEpisode = Callable[[dict[str, Any], EpisodeId], Coroutine[Any, Any, Episode]]


class RolloutFailure(UserError):
    """More consecutive groups failed than the budget allows; the exception's cause is the last error."""


@dataclass(eq=False)
class RolloutController:
    """Runs groups of episodes until it is cancelled.

    Attributes:
        admission: the gate and the buffer; its groups in flight are generated from the beginning.
        run_episode: runs one episode of a task.
        task_of: returns the task of a group, given its number.
        group_size: number of episodes in a group.
        max_concurrent: number of concurrent episodes; at least one group.
        max_retries: how often one episode is retried after an error.
        max_failures: number of consecutive groups that may fail before :meth:`run` raises RolloutFailure, or
            the EnvironmentFailure or AgentFailure of the last one.
        max_equal: reject groups whose rewards are all equal, at most this number in a row (dynamic sampling,
            arXiv 2503.14476, section 3.2); None: keep them.
    """

    admission: Admission[Group]
    run_episode: RunEpisode
    task_of: Callable[[int], dict[str, Any]]
    group_size: int
    max_concurrent: int
    max_retries: int
    max_failures: int
    max_equal: int | None = None

    def __post_init__(self) -> None:
        self._lost = deque(n for n, _, result in self.admission.outstanding() if result is None)
        self._regenerated = len(self._lost)
        self._in_flight = 0
        self._failed_in_row = 0
        self._equal_in_row = 0
        self._groups: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Task[None] | None = None
        self._room = asyncio.Event()
        self._grown = asyncio.Event()
        self.retries = 0
        self.failures = 0
        self.punished = 0
        self.equal_groups = 0
        self.finished_episodes = 0
        self.finished_tokens = 0
        self.held_seconds = 0.0

    async def run(self) -> None:
        """Start groups until cancelled; raises an error of a group that cannot be retried."""
        try:
            while self._failed is None:
                while self._has_room() and (self._lost or self.admission.may_admit()):
                    self._start_group(self._lost.popleft() if self._lost else self.admission.admit())
                await _next(self._room)
            self._failed.result()
        finally:
            for group in self._groups:
                group.cancel()
            await asyncio.gather(*self._groups, return_exceptions=True)

    async def next_batch(self, version: int) -> list[Group]:
        """Wait for the groups of the update at ``version``.

        Afterwards, ``held_seconds`` is the time in which enough groups were complete, but older ones had to
        finish first, because they would have exceeded the maximum staleness.
        """
        held: float | None = None
        while (groups := self.admission.take(version)) is None:
            if held is None and self.admission.complete >= self.admission.batch:
                held = time.monotonic()
            await _next(self._grown)
        self.held_seconds = 0.0 if held is None else time.monotonic() - held
        self._room.set()
        return groups

    def advance(self, version: int) -> None:
        """Record that the engine now samples with the weights of ``version``."""
        self.admission.advance(version)
        self._room.set()

    @property
    def in_flight(self) -> int:
        """Number of episodes that have begun and not ended."""
        return self._in_flight

    def counts(self) -> dict[str, float]:
        """Return the counts of failures so far, under the names of a run's metrics."""
        found = {"retries": self.retries, "failures": self.failures, "punished": self.punished}
        found["regenerated"] = self._regenerated
        if self.max_equal is not None:
            found["equal_groups"] = self.equal_groups
        return {f"rollout/{name}": float(count) for name, count in found.items()}

    def _has_room(self) -> bool:
        return self._in_flight + self.group_size <= max(self.max_concurrent, self.group_size)

    def _start_group(self, number: int) -> None:
        self._in_flight += self.group_size
        task = self.task_of(number)
        running = asyncio.create_task(self._run_group(number, task), name=f"group {number}")
        running.add_done_callback(self._group_done)
        self._groups.add(running)

    def _group_done(self, group: asyncio.Task[None]) -> None:
        self._groups.discard(group)
        if group.cancelled() or group.exception() is not None:
            self._failed = group
        self._room.set()
        self._grown.set()

    async def _run_group(self, number: int, task: dict[str, Any]) -> None:
        results = await self._run_members(number, task)
        error = next((r for r in results if isinstance(r, BaseException)), None)
        if error is not None:
            self._reject(number, task, error)
            return
        self._failed_in_row = 0
        episodes = [r for r in results if isinstance(r, Episode)]
        if self.max_equal is not None and _all_equal(episodes):
            self._reject_equal(number, episodes[0].reward, self.max_equal)
            return
        self._equal_in_row = 0
        self.admission.finish(number, Group(number, self.admission.admitted_at(number), episodes))

    async def _run_members(self, number: int, task: dict[str, Any]) -> list[Episode | BaseException]:
        """Run each member of a group, with retries; return their episodes, or their last errors."""
        results: list[Any] = [None] * self.group_size
        running: dict[asyncio.Task[Episode], EpisodeId] = {}

        def start(episode_id: EpisodeId) -> None:
            episode = asyncio.create_task(self.run_episode(task, episode_id))
            episode.add_done_callback(self._episode_done)
            running[episode] = episode_id

        for member in range(self.group_size):
            start(EpisodeId(number, member, attempt=0))
        try:
            while running:
                # A single wait for all of them, unless one fails.
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_EXCEPTION)
                for episode in done:
                    episode_id = running.pop(episode)
                    error = episode.exception()
                    results[episode_id.member] = episode.result() if error is None else error
                    if error is None:
                        continue
                    if isinstance(error, UserError | WorkerLost) or episode_id.attempt == self.max_retries:
                        self._in_flight -= 1
                        continue
                    self.retries += 1
                    log.warning("an episode of %s failed and runs again: %r", task, error)
                    start(episode_id._replace(attempt=episode_id.attempt + 1))
        finally:
            for episode in running:
                episode.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        return results

    def _episode_done(self, episode: asyncio.Task[Episode]) -> None:
        """Free the place of an episode; a failed one keeps its place, because it is retried."""
        if episode.cancelled() or episode.exception() is not None:
            return
        self._in_flight -= 1
        self.finished_episodes += 1
        self.finished_tokens += episode.result().sampled
        if failure := episode.result().failure:
            log.log(
                logging.INFO if self.punished else logging.WARNING,
                "an episode gets the reward 0: %s",
                failure,
            )
            self.punished += 1
        self._room.set()

    def _reject(self, number: int, task: dict[str, Any], error: BaseException) -> None:
        """Reject a group with a failed member, within the budget of failures."""
        self.admission.reject(number)
        self.failures += 1
        self._failed_in_row += 1
        if isinstance(error, UserError | WorkerLost | asyncio.CancelledError):
            raise error
        log.error("the group of %s failed in all attempts", task, exc_info=error)
        if self._failed_in_row > self.max_failures:
            text = f"{self._failed_in_row} groups in a row failed (rollout.max_failures={self.max_failures})"
            if isinstance(error, EnvironmentFailure | AgentFailure):
                raise type(error)(f"{error}; {text}") from error
            if isinstance(error, ConversationTooLong):
                raise RolloutFailure(f"{error}; {text}") from error
            raise RolloutFailure(f"{text}; the last one with {explained(error, __file__)}") from error

    def _reject_equal(self, number: int, reward: float, limit: int) -> None:
        """Reject a group with equal rewards, which have no learning signal, up to a limit in a row."""
        self.admission.reject(number)
        self.equal_groups += 1
        self._equal_in_row += 1
        if self._equal_in_row > limit:
            raise UserError(
                f"dynamic sampling found {self._equal_in_row} consecutive groups with equal rewards (the "
                f"last {reward:g}), from which nothing can be learned; use easier or harder problems, or "
                "set learner.dynamic_sampling=false"
            )


def _all_equal(episodes: Sequence[Episode]) -> bool:
    """Return whether the rewards of all episodes are equal; with several players, separately for each."""
    known: dict[str, float] = {}
    return all(known.setdefault(name, x) == x for e in episodes for name, x in e.returns.items())


async def _next(event: asyncio.Event) -> None:
    await event.wait()
    event.clear()
