"""The staleness guarantee, driven by Hypothesis through every order of events that a run can meet."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from areal.rollout.admission import Admission


class Run(RuleBasedStateMachine):
    """A run in miniature: the engine's version follows the learner's, groups finish in any order.

    A group's result is its admission number. ``oldest`` remembers the version at which each was admitted:
    no token of a group is older.
    """

    @initialize(batch=st.integers(1, 4), eta=st.integers(0, 4))
    def begin(self, batch: int, eta: int):
        self.batch, self.eta = batch, eta
        self.learner = 0  # finished updates
        self.gate: Admission[int] = Admission(batch, eta)
        self.running: set[int] = set()
        self.oldest: dict[int, int] = {}
        self.consumed: list[int] = []
        self.saved: tuple[int, list[int], int] | None = None

    @precondition(lambda self: self.gate.may_admit())
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

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def reject(self, data):
        number = data.draw(st.sampled_from(sorted(self.running)))
        self.running.discard(number)
        self.gate.reject(number)

    @rule()
    def update(self):
        """The learner takes a batch if it may; the engine's weights follow later."""
        groups = self.gate.take(self.learner)
        if groups is None:
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

    @precondition(lambda self: self.gate.version == self.learner)
    @rule()
    def checkpoint(self):
        self.saved = (self.learner, self.gate.waiting(), self.gate.next_id)

    @precondition(lambda self: self.saved is not None)
    @rule()
    def crash_and_recover(self):
        """What was in flight is lost; what was complete comes back."""
        assert self.saved is not None
        self.learner, waiting, next_id = self.saved
        counted = self.learner * self.batch + len(waiting)
        self.gate = Admission(self.batch, self.eta, self.learner, counted, next_id)
        for number in waiting:
            self.gate.restore(number, self.oldest[number], number)
        self.running = set()
        # Groups admitted after the checkpoint never happened, nor did their consumption.
        self.oldest = {n: v for n, v in self.oldest.items() if n < next_id}
        self.consumed = [n for n in self.consumed if n < next_id and n not in waiting]

    @rule()
    def always_progress(self):
        """From any state: finish what runs, admit what may be, and a batch comes."""
        ahead = Admission(self.batch, self.eta, self.learner, self.gate.counted, self.gate.next_id)
        for number in sorted({*self.running, *self.gate.waiting()}):
            ahead.restore(number, self.oldest[number], number)
        while ahead.take(self.learner) is None:
            number = ahead.admit()  # raises where the gate is closed: that would be a deadlock
            ahead.finish(number, number)

    @invariant()
    def few_enough_outstanding(self):
        if hasattr(self, "gate"):
            outstanding = self.gate.in_flight + self.gate.complete
            assert outstanding <= (self.learner - self.gate.version + self.eta + 1) * self.batch


TestRun = Run.TestCase
TestRun.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)


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
    with pytest.raises(RuntimeError, match="finished already"):
        gate.finish(number, 7)
    gate.advance(1)
    with pytest.raises(ValueError, match="cannot fall"):
        gate.advance(0)
