"""Decides which groups may start and which a batch may take, so that staleness ≤ η holds for every sample.

It is a pure state machine without I/O. Let i be the version (finished updates), B the number of groups in a
batch, η the maximum staleness, and N the number of groups admitted and not rejected. The rules are:

- *Gate* (arXiv 2505.24298, eq 3): one more group may be admitted while N ≤ (i+η+1)·B, counting it.
- A group admitted at version v has the *deadline* v+η: the last version whose batch may take it.
- *Batch at version i*: B complete groups in admission order. A group may overtake an unfinished older one
  only if every remaining group can still meet its deadline: for each d ≥ 0, at most d·B of them have a
  deadline ≤ i+d.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True)
class _Outstanding(Generic[T]):
    """A group that is admitted and neither consumed nor rejected; ``result`` is None until it is complete."""

    version: int
    result: T | None = None


class Admission(Generic[T]):
    """Admits groups and hands out batches of their results.

    Args:
        batch: B, number of groups in a batch.
        max_staleness: η; ``math.inf`` never waits for a straggler and never closes the gate.
        version: the initial version; this number of batches has already been consumed.
        next_id: the first admission number to assign.

    Attributes:
        log: called when a group is ``admitted``, has ``finished``, or is ``rejected``, with that word, its
            number, its version at admission, and its result. It is not called by :meth:`take` and
            :meth:`restore`.
    """

    log: Callable[[str, int, int, T | None], None] | None = None

    def __init__(self, batch: int, max_staleness: float, version: int = 0, next_id: int = 0) -> None:
        if batch < 1 or max_staleness < 0:
            raise ValueError(f"batch={batch} must be ≥ 1 and max_staleness={max_staleness} ≥ 0")
        self.batch = batch
        self.max_staleness = max_staleness
        self.version = version
        self._counted = version * batch
        self.next_id = next_id
        self._outstanding: dict[int, _Outstanding[T]] = {}

    @property
    def counted(self) -> int:
        """N: number of groups admitted and not rejected, including consumed ones."""
        return self._counted

    @property
    def in_flight(self) -> int:
        """Number of admitted groups that are not complete."""
        return sum(o.result is None for o in self._outstanding.values())

    @property
    def complete(self) -> int:
        """Number of complete groups that wait to be taken."""
        return len(self._outstanding) - self.in_flight

    def may_admit(self) -> bool:
        """Return whether the gate is open for one more group."""
        return self._counted + 1 <= (self.version + self.max_staleness + 1) * self.batch

    def admit(self) -> int:
        """Admit one group at the current version and return its number (in admission order).

        Raises:
            RuntimeError: the gate is closed.
        """
        if not self.may_admit():
            raise RuntimeError(f"the gate is closed: {self._counted} groups at version {self.version}")
        number = self.next_id
        self.next_id += 1
        self._outstanding[number] = _Outstanding(self.version)
        self._counted += 1
        if self.log is not None:
            self.log("admitted", number, self.version, None)
        return number

    def restore(self, number: int, version: int, result: T | None) -> None:
        """Restore a group of :meth:`outstanding` after a crash; in its order, and before any admission."""
        self._outstanding[number] = _Outstanding(version, result)
        self._counted += 1

    def admitted_at(self, number: int) -> int:
        """Return the version at which an outstanding group was admitted."""
        return self._outstanding[number].version

    def outstanding(self) -> list[tuple[int, int, T | None]]:
        """Return number, version and result (None: in flight) of the outstanding groups, in their order."""
        return [(number, o.version, o.result) for number, o in self._outstanding.items()]

    def finish(self, number: int, result: T) -> None:
        """Record the result of an admitted group."""
        if self._outstanding[number].result is not None:
            raise RuntimeError(f"group {number} has already finished")
        self._outstanding[number].result = result
        if self.log is not None:
            self.log("finished", number, self._outstanding[number].version, result)

    def reject(self, number: int) -> None:
        """Remove an outstanding group that failed or is useless, as if it had not been admitted."""
        version = self._outstanding.pop(number).version
        self._counted -= 1
        if self.log is not None:
            self.log("rejected", number, version, None)

    def advance(self, version: int) -> None:
        """Record that ``version`` updates are finished, and that their weights now sample."""
        if version < self.version:
            raise ValueError(f"the version cannot decrease from {self.version} to {version}")
        self.version = version

    def take(self, version: int) -> list[T] | None:
        """Return the results of the batch for the update at ``version``; None: more groups must finish first.

        The batch consists of the B complete groups that were admitted first.
        """
        chosen = [n for n, o in self._outstanding.items() if o.result is not None][: self.batch]
        if len(chosen) < self.batch or not self._rest_in_time(set(chosen), version):
            return None
        results = []
        for number in chosen:
            result = self._outstanding.pop(number).result
            assert result is not None
            results.append(result)
        return results

    def _rest_in_time(self, taken: set[int], version: int) -> bool:
        """Return whether all others meet their deadline: for each d, at most d·B have one ≤ version+d."""
        if math.isinf(self.max_staleness):
            return True
        # Admission order is deadline order, so the k-th remaining group is the k-th most urgent: it can be in
        # batch version + 1 + k // B at the earliest.
        left = (o for n, o in self._outstanding.items() if n not in taken)
        return all(
            o.version + self.max_staleness >= version + 1 + k // self.batch for k, o in enumerate(left)
        )
