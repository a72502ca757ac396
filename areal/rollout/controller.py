"""Keeps generation fed: starts groups when the gate allows, retries what fails, hands out batches.

All of it runs on one event loop; the learner works on a thread of its own, so prompts keep flowing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from areal.errors import UserError
from areal.rollout.admission import Admission
from areal.trajectory import Group, Trajectory

log = logging.getLogger(__name__)

Play = Callable[[dict[str, Any]], Awaitable[Trajectory]]


class RolloutFailure(RuntimeError):
    """More episodes in a row failed than the budget allows; the last one's error is the cause."""


class RolloutController:
    """Plays groups of episodes for as long as it runs.

    Args:
        admission: the gate and the buffer.
        play: plays one episode of a task.
        next_task: returns the next task.
        group_size: episodes of one task.
        max_concurrent: episodes under way at once.
        max_retries: how often one episode is played again after an error.
        max_failures: groups in a row that may fail before :meth:`run` raises.
    """

    def __init__(
        self,
        admission: Admission[Group],
        play: Play,
        next_task: Callable[[], dict[str, Any]],
        group_size: int,
        max_concurrent: int,
        max_retries: int,
        max_failures: int,
    ) -> None:
        self._admission = admission
        self._play = play
        self._next_task = next_task
        self._group_size = group_size
        self._max_concurrent = max(max_concurrent, group_size)
        self._max_retries = max_retries
        self._max_failures = max_failures
        self._playing = 0
        self._failed_in_row = 0
        self._groups: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self.retries = 0
        self.failures = 0
        self.finished_trajectories = 0
        self.finished_tokens = 0

    async def run(self) -> None:
        """Start groups until cancelled; raises what a group raised that cannot be retried."""
        try:
            while True:
                while (
                    self._playing + self._group_size <= self._max_concurrent and self._admission.may_admit()
                ):
                    self._start_group()
                await self._wait()
                for group in [g for g in self._groups if g.done()]:
                    self._groups.discard(group)
                    group.result()
        finally:
            for group in self._groups:
                group.cancel()
            await asyncio.gather(*self._groups, return_exceptions=True)

    async def next_batch(self, version: int) -> list[Group]:
        """Wait for the groups of the update at ``version``."""
        while (groups := self._admission.take(version)) is None:
            await self._wait()
        self._notify()
        return groups

    def advance(self, version: int) -> None:
        """Tell that the engine samples with the weights of ``version`` now."""
        self._admission.advance(version)
        self._notify()

    def _start_group(self) -> None:
        number = self._admission.admit()
        self._playing += self._group_size
        task = self._next_task()
        running = asyncio.create_task(self._play_group(number, task), name=f"group {number}")
        running.add_done_callback(lambda _: self._notify())
        self._groups.add(running)

    async def _play_group(self, number: int, task: dict[str, Any]) -> None:
        episodes = [asyncio.create_task(self._play_episode(task)) for _ in range(self._group_size)]
        try:
            results = await asyncio.gather(*episodes, return_exceptions=True)
        finally:
            for episode in episodes:
                episode.cancel()
        errors = [r for r in results if isinstance(r, BaseException)]
        if errors:
            self._reject(number, task, errors[0])
            return
        self._failed_in_row = 0
        trajectories = [r for r in results if isinstance(r, Trajectory)]
        self._admission.finish(number, Group(number, self._admission.admitted_at(number), trajectories))

    async def _play_episode(self, task: dict[str, Any]) -> Trajectory:
        try:
            for _ in range(self._max_retries):
                attempt = asyncio.ensure_future(self._play(task))
                try:
                    await asyncio.wait([attempt])
                finally:
                    attempt.cancel()  # of no effect if it is done
                error = attempt.exception()
                if error is None:
                    return self._count(attempt.result())
                if isinstance(error, UserError):
                    raise error
                self.retries += 1
                log.warning("an episode of %s failed and is played again: %r", task, error)
            return self._count(await self._play(task))
        finally:
            self._playing -= 1
            self._notify()

    def _count(self, trajectory: Trajectory) -> Trajectory:
        self.finished_trajectories += 1
        self.finished_tokens += trajectory.sampled
        return trajectory

    def _reject(self, number: int, task: dict[str, Any], error: BaseException) -> None:
        """A group with a failed member is no group: forget it, within the budget of failures."""
        self._admission.reject(number)
        self.failures += 1
        self._failed_in_row += 1
        if isinstance(error, UserError | asyncio.CancelledError):
            raise error
        log.error("the group of %s failed for good", task, exc_info=error)
        if self._failed_in_row > self._max_failures:
            raise RolloutFailure(
                f"{self._failed_in_row} groups in a row failed (rollout.max_failures="
                f"{self._max_failures}); the last with {error!r}"
            ) from error

    def _notify(self) -> None:
        self._changed.set()

    async def _wait(self) -> None:
        await self._changed.wait()
        self._changed.clear()
