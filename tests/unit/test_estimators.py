"""Estimators against exact rational numbers, enumeration and known tests."""

from __future__ import annotations

import itertools
import math
import statistics
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from areal.evaluation.estimators import difference, mean_interval, pass_at_k


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(1, n))))
def test_pass_at_k_is_the_published_estimator(counts: tuple[int, int, int]):
    n, c, k = counts
    exact = 1 - Fraction(math.comb(n - c, k), math.comb(n, k))
    assert abs(pass_at_k(n, c, k) - float(exact)) <= 1e-12


def test_pass_at_k_is_the_mean_over_all_choices():
    right = [True, False, False, True, False]
    chosen = [any(choice) for choice in itertools.combinations(right, 3)]
    assert pass_at_k(5, 2, 3) == pytest.approx(statistics.fmean(chosen), abs=1e-12)


@pytest.mark.parametrize("counts", [(4, 2, 0), (4, 2, 5), (4, 5, 1), (4, -1, 1)])
def test_impossible_counts(counts):
    with pytest.raises(ValueError, match="is not defined for"):
        pass_at_k(*counts)


def test_interval_of_fractional_values_is_normal_and_clipped():
    half = 1.959964 * 0.25 / math.sqrt(2) * math.sqrt(2)
    assert mean_interval([0.5, 1.0], True) == pytest.approx((0.75 - half, 1.0))
    assert mean_interval([0.5, 1.0], False)[1] > 1.0


@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 1), min_size=2, max_size=2), st.integers(0, 1)),
        min_size=1,
        max_size=8,
    )
)
def test_p_is_the_share_of_sign_patterns(problems):
    """Two responses of A, one of B: all 2^n patterns, enumerated in exact numbers."""
    a, b = [row for row, _ in problems], [[score] for _, score in problems]
    pairs = [Fraction(score) - Fraction(sum(row), 2) for row, score in problems]
    patterns = list(itertools.product((1, -1), repeat=len(pairs)))
    found = abs(sum(pairs))
    extreme = sum(abs(sum(s * d for s, d in zip(signs, pairs, strict=True))) >= found for signs in patterns)
    assert difference(a, b).p == pytest.approx(extreme / len(patterns), abs=1e-12)


def test_one_response_each_is_mcnemars_exact_test():
    a = [[1.0]] * 3 + [[0.0]] * 12 + [[1.0]] * 40
    b = [[0.0]] * 3 + [[1.0]] * 12 + [[1.0]] * 40
    found = difference(a, b)
    assert (found.better, found.worse, found.equal) == (12, 3, 40)
    assert found.mean == pytest.approx(9 / 55)
    assert found.p == pytest.approx(2 * sum(math.comb(15, i) for i in range(4)) / 2**15)
    back = difference(b, a)
    assert (back.mean, back.p) == (-found.mean, found.p)


def test_graded_scores_are_tested_by_random_flips():
    """Of the 32 patterns two are as extreme as five equal signs: p = 1/16."""
    a, b = [[0.0]] * 5, [[0.1], [0.2], [0.35], [0.4], [0.5]]
    found = difference(a, b)
    assert found.p == pytest.approx(1 / 16, abs=0.01)
    assert found.p == difference(a, b).p
    assert difference(a, a).p == 1.0


def test_nothing_to_compare():
    with pytest.raises(ValueError, match="cannot be paired"):
        difference([], [])
    with pytest.raises(ValueError, match="cannot be paired"):
        difference([[1.0]], [[1.0], [0.0]])
