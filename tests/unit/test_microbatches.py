"""Micro-batches: both ways of filling them cover all, stay within the budget, and refuse what cannot fit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from areal.errors import UserError
from areal.learner.microbatches import allocate, best_fit, partition

ways = pytest.mark.parametrize("way", [allocate, best_fit])
many_lengths = st.lists(st.integers(1, 100), max_size=60)


@ways
@settings(max_examples=300)
@given(lengths=many_lengths, budget=st.integers(100, 400))
def test_each_sequence_once_within_the_budget(way: Callable, lengths: list[int], budget: int):
    micros = way(lengths, budget)
    assert sorted(i for micro in micros for i in micro) == list(range(len(lengths)))
    for micro in micros:
        assert micro
        assert sum(lengths[i] for i in micro) <= budget


@ways
@given(lengths=many_lengths, budget=st.integers(100, 400))
def test_no_micro_batch_could_be_spared(way: Callable, lengths: list[int], budget: int):
    """A new one is opened only for what fits in none: no two half empty ones, so at most twice the bound."""
    micros = way(lengths, budget)
    totals = sorted(sum(lengths[i] for i in micro) for micro in micros)
    assert len(totals) < 2 or totals[0] + totals[1] > budget
    assert len(totals) <= 2 * sum(lengths) / budget + 1


@given(lengths=many_lengths, budget=st.integers(100, 400), minimum=st.integers(1, 8))
def test_algorithm_1_opens_at_least_so_many(lengths: list[int], budget: int, minimum: int):
    assert len(allocate(lengths, budget, minimum)) >= min(minimum, len(lengths))


def test_algorithm_1_by_hand():
    """Longest first; what fits goes where the fewest sequences are."""
    assert allocate([1, 6, 4, 2, 3], 10) == [[1, 2], [4, 3, 0]]
    assert allocate([1, 6, 4, 2, 3], 10, minimum=3) == [[1, 3], [2, 0], [4]]


def test_best_fit_by_hand():
    """Longest first; what fits goes where the least room is left."""
    assert best_fit([5, 7, 2, 3, 3], 10) == [[1, 3], [0, 4, 2]]


@ways
def test_a_sequence_longer_than_the_budget_is_refused(way: Callable):
    with pytest.raises(UserError, match=r"500 tokens.*micro_batch_tokens=100.*max_new_tokens"):
        way([5, 500, 7], 100)


@given(st.lists(st.integers(1, 100), max_size=40), st.integers(100, 300), st.integers(1, 5))
def test_ranks_have_as_many_micro_batches_each_and_every_sequence_once(
    lengths: list[int], budget: int, world_size: int
):
    parts = partition(lengths, budget, world_size)
    assert len(parts) == world_size
    assert len({len(of_rank) for of_rank in parts}) == 1
    assert sorted(i for of_rank in parts for part in of_rank for i in part) == list(range(len(lengths)))
    loads = [[sum(lengths[i] for i in part) for part in of_rank] for of_rank in parts]
    assert all(load <= budget for parts in loads for load in parts)
    empty = sum(part == [] for of_rank in parts for part in of_rank)
    assert empty < world_size
    assert empty == 0 or all(len(part) <= 1 for of_rank in parts for part in of_rank), "a part could be split"
    if world_size == 1:
        assert parts[0] == allocate(lengths, budget)


def test_ranks_do_about_as_much_at_the_same_time_and_in_all():
    lengths = [1000, 900, 400, 350, 300, 250, 200, 150, 100, 50] * 4
    loads = [[sum(lengths[i] for i in part) for part in parts] for parts in partition(lengths, 1000, 2)]
    assert all(abs(a - b) <= 200 for a, b in zip(*loads, strict=True))
    assert abs(sum(loads[0]) - sum(loads[1])) <= 200
