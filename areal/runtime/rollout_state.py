"""The state of a run's rollout side at one moment, and the part of it that a resumed run begins with."""

from __future__ import annotations

from dataclasses import dataclass, field

from areal.rollout.admission import Admission
from areal.trajectory import Group


@dataclass(slots=True)
class RolloutState:
    """The outstanding groups of a run after an update.

    Attributes:
        version: number of updates whose batches were consumed.
        next_group: number of the next group.
        outstanding: the groups that were admitted and neither consumed nor rejected, by number and in that
            order: the version at admission, and the group, or None while it is in flight.
        dropped: groups that were dropped because no batch could take them in time.
    """

    version: int = 0
    next_group: int = 0
    outstanding: dict[int, tuple[int, Group | None]] = field(default_factory=dict)
    dropped: list[int] = field(default_factory=list)

    @property
    def finished(self) -> int:
        """Number of groups that wait to be consumed."""
        return sum(group is not None for _, group in self.outstanding.values())


def state_of(admission: Admission[Group]) -> RolloutState:
    """Return the state of an admission, from which :func:`recover` restores another one."""
    outstanding = {number: (version, group) for number, version, group in admission.outstanding()}
    return RolloutState(admission.version, admission.next_id, outstanding)


def recover(admission: Admission[Group], state: RolloutState) -> None:
    """Restore every outstanding group, in its place and with its version.

    A group in flight keeps its admission version, although it is generated again by newer weights. Its tokens
    are no older than that version, and the other groups have been admitted with its deadline in mind.
    """
    admission.next_id = state.next_group
    for number, (version, group) in sorted(state.outstanding.items()):
        admission.restore(number, version, group)


def remaining(
    base: RolloutState, journal: RolloutState | None, consumed: frozenset[int], version: int
) -> RolloutState:
    """Return the state of a run's rollout side after its last update.

    Args:
        base: the state at the checkpoint.
        journal: the groups that are outstanding according to the journal, including those that were consumed
            since it began; None: there is no journal.
        consumed: the groups of the updates since the checkpoint.
        version: the number of updates that were made.
    """
    known, following = base.outstanding, max(base.next_group, max(consumed, default=-1) + 1)
    if journal is not None and journal.version <= version:
        # A group from before the checkpoint that is not in it was consumed or rejected.
        known = {n: kept for n, kept in journal.outstanding.items() if n >= base.next_group or n in known}
        known |= {n: kept for n, kept in base.outstanding.items() if n in known and kept[1] is not None}
        following = max(following, journal.next_group)
    outstanding = {}
    for number, (admitted, group) in sorted(known.items()):
        if number in consumed:
            continue
        if admitted > version:  # its weights will be computed again, and so will those of all later groups
            following = number
            break
        outstanding[number] = (admitted, group if group is not None and _newest(group) <= version else None)
    return RolloutState(version, following, outstanding)


def _newest(group: Group) -> int:
    return max((int(t.versions.max()) for t in group.trajectories), default=-1)


def meet_deadlines(state: RolloutState, batch: int, max_staleness: float) -> None:
    """Drop the groups that cannot be consumed in time.

    The k-th remaining group can be in the batch at version + k // batch at the earliest.

    Args:
        batch: number of groups in a batch.
    """
    kept: dict[int, tuple[int, Group | None]] = {}
    for number, (admitted, group) in state.outstanding.items():
        if admitted + max_staleness >= state.version + len(kept) // batch:
            kept[number] = (admitted, group)
    state.dropped += [number for number in state.outstanding if number not in kept]
    state.outstanding = kept
