"""The staleness guarantee, driven by Hypothesis through every order of events that a run can meet."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from areal.rollout.admission import Admission


class Run(RuleBasedStateMachine):
    """A run in miniature: the engine's version follows the learner's, groups finish in any order.

    A group's result is its admission number. ``oldest`` remembers the engine's version when its number was
    given out: no token of a group is older.
    """

    @initialize(batch=st.integers(1, 4), eta=st.sampled_from([0, 1, 2, 3, 4, math.inf]))
    def begin(self, batch: int, eta: float):
        self.batch, self.eta = batch, eta
        self.learner = 0  # finished updates
        self.gate: Admission[int] = Admission(batch, eta)
        self.slots = 3 * batch
        self.running: set[int] = set()
        self.oldest: dict[int, int] = {}
        self.rejected: set[int] = set()
        self.consumed: list[int] = []
        self.saved: tuple[int, list[tuple[int, int, int | None]], int, list[int], set[int]] | None = None

    @rule(slots=st.integers(1, 16))
    def change_concurrency(self, slots: int):
        self.slots = slots

    @precondition(lambda self: self.gate.may_admit() and len(self.running) < self.slots)
    @rule()
    def admit(self):
        number = self.gate.admit()
        assert number not in self.oldest, "admission numbers are never reused"
        self.running.add(number)
        self.oldest[number] = self.gate.version

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def finish(self, data):
        number = data.draw(st.sampled_from(sorted(self.running)))
        self.running.discard(number)
        self.gate.finish(number, number)

    @precondition(lambda self: self.gate.outstanding())
    @rule(data=st.data())
    def reject(self, data):
        """An episode failed, or a complete group turned out to be of no use."""
        number = data.draw(st.sampled_from([n for n, _, _ in self.gate.outstanding()]))
        self.running.discard(number)
        self.rejected.add(number)
        self.gate.reject(number)

    @rule()
    def update(self):
        """The learner takes a batch if it may; the engine's weights follow later."""
        complete = self.gate.complete
        groups = self.gate.take(self.learner)
        if groups is None:
            assert complete < self.batch or self.eta < math.inf, "η=∞ waits for no straggler"
            return
        assert len(groups) == self.batch
        assert groups == sorted(groups), "in admission order"
        assert not set(groups) & set(self.consumed), "each group is consumed once"
        assert all(self.learner - self.oldest[g] <= self.eta for g in groups), "staleness is bounded"
        self.consumed += groups
        self.learner += 1

    @precondition(lambda self: self.gate.version < self.learner)
    @rule(data=st.data())
    def load_weights(self, data):
        self.gate.advance(data.draw(st.integers(self.gate.version + 1, self.learner)))

    @rule()
    def checkpoint(self):
        self.saved = (
            self.learner,
            self.gate.outstanding(),
            self.gate.next_id,
            list(self.consumed),
            set(self.rejected),
        )

    @precondition(lambda self: self.saved is not None)
    @rule()
    def crash_and_recover(self):
        """What was complete comes back; what was in flight begins again, under newer weights."""
        assert self.saved is not None
        self.learner, outstanding, next_id, consumed, rejected = self.saved
        self.gate = Admission(self.batch, self.eta, self.learner, next_id)
        for found in outstanding:
            self.gate.restore(*found)
        self.running = {number for number, _, result in outstanding if result is None}
        # Groups admitted after the checkpoint never happened, nor did their consumption.
        self.oldest = {n: v for n, v in self.oldest.items() if n < next_id}
        self.consumed, self.rejected = list(consumed), set(rejected)

    @rule()
    def always_progress(self):
        """From any state: the weights arrive, what runs finishes, what may begin does, and a batch comes."""
        ahead: Admission[int] = Admission(self.batch, self.eta, self.learner, self.gate.next_id)
        for number, version, _ in self.gate.outstanding():
            ahead.restore(number, version, number)
        assert ahead.counted == self.gate.counted, "N is known after a crash"
        while ahead.take(self.learner) is None:
            number = ahead.admit()  # raises where the gate is closed: that would be a deadlock
            ahead.finish(number, number)

    @invariant()
    def few_enough_outstanding(self):
        if hasattr(self, "gate"):
            outstanding = self.gate.in_flight + self.gate.complete
            assert outstanding <= (self.gate.version - self.learner + self.eta + 1) * self.batch

    @invariant()
    def no_group_is_lost(self):
        if hasattr(self, "gate"):
            outstanding = {number for number, _, _ in self.gate.outstanding()}
            assert outstanding == set(self.oldest) - set(self.consumed) - self.rejected
            assert self.gate.in_flight == len(self.running)

    @invariant()
    def nothing_is_overdue(self):
        if hasattr(self, "gate"):
            assert all(self.learner - self.oldest[n] <= self.eta for n, _, _ in self.gate.outstanding())


TestRun = Run.TestCase
TestRun.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def test_eta_zero_is_the_synchronous_schedule():
    gate: Admission[int] = Admission(2, 0)
    assert [gate.admit(), gate.admit()] == [0, 1]
    assert not gate.may_admit(), "nothing more before the update"
    gate.finish(1, 1)
    assert gate.take(0) is None, "a batch is exactly the groups of its version"
    gate.finish(0, 0)
    assert gate.take(0) == [0, 1]
    assert not gate.may_admit(), "the new weights come first"
    gate.advance(1)
    assert gate.admit() == 2


@given(st.integers(1, 4), st.data())
def test_eta_zero_gives_the_synchronous_batches_in_whatever_order_groups_finish(batch: int, data):
    gate: Admission[int] = Admission(batch, 0)
    for version in range(4):
        numbers = []
        while gate.may_admit():
            numbers.append(gate.admit())
        assert numbers == list(range(version * batch, (version + 1) * batch))
        for number in data.draw(st.permutations(numbers)):
            assert gate.take(version) is None
            gate.finish(number, number)
        assert gate.take(version) == numbers
        gate.advance(version + 1)


def test_a_straggler_may_be_overtaken_only_until_its_deadline():
    """The gate alone would let one group be overtaken for ever."""
    gate: Admission[int] = Admission(1, 2)
    straggler = gate.admit()
    for version in (0, 1):
        number = gate.admit()
        gate.finish(number, number)
        assert gate.take(version) == [number]
        gate.advance(version + 1)
    number = gate.admit()
    gate.finish(number, number)
    assert gate.take(2) is None, "version 2 is the straggler's last"
    gate.finish(straggler, straggler)
    assert gate.take(2) == [straggler]


def test_two_stragglers_of_one_deadline_need_two_batches():
    gate: Admission[int] = Admission(1, 2)
    first, second, third = (gate.admit() for _ in range(3))
    gate.finish(third, third)
    assert gate.take(0) == [third]
    gate.advance(1)
    fourth = gate.admit()
    gate.finish(fourth, fourth)
    assert gate.take(1) is None, "batches 1 and 2 are those of the two stragglers"
    gate.finish(second, second)
    assert gate.take(1) == [second]
    gate.finish(first, first)
    assert gate.take(2) == [first]


@pytest.mark.parametrize(("batch", "eta"), [(b, e) for b in (1, 2, 3) for e in (0, 1, 2, 4)])
def test_stragglers_in_every_mixture_stay_within_the_bound(batch: int, eta: int):
    """Some groups take much longer than others, and the learner takes whatever it is given at once."""
    for seed in range(60):
        chance = random.Random(seed)
        gate: Admission[int] = Admission(batch, eta)
        version, running = 0, {}
        while version < 12:
            while gate.may_admit() and len(running) < 12:
                running[gate.admit()] = gate.version
            for number in list(running):
                if chance.random() < (0.02 if number % 3 else 0.7):
                    del running[number]
                    gate.finish(number, number)
            admitted = {n: v for n, v, _ in gate.outstanding()}
            while (groups := gate.take(version)) is not None:
                assert all(version - admitted[g] <= eta for g in groups)
                version += 1
            if chance.random() < 0.5:
                gate.advance(version)


def test_infinite_staleness_never_waits():
    gate: Admission[int] = Admission(1, math.inf)
    gate.admit()
    for version in range(50):
        assert gate.may_admit()
        number = gate.admit()
        gate.finish(number, number)
        assert gate.take(version) == [number]
        gate.advance(version + 1)


def test_misuse_is_refused():
    with pytest.raises(ValueError, match="batch=0"):
        Admission(0, 1)
    gate: Admission[int] = Admission(1, 0)
    number = gate.admit()
    with pytest.raises(RuntimeError, match="closed"):
        gate.admit()
    gate.finish(number, 7)
    with pytest.raises(RuntimeError, match="has already finished"):
        gate.finish(number, 7)
    gate.advance(1)
    with pytest.raises(ValueError, match="cannot decrease"):
        gate.advance(0)
