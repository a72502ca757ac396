"""Estimates from responses to a sample of problems, and their uncertainty, as pure functions.

The problems are the sample; several responses to one problem never count as independent evidence.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Z = 1.959963984540054
"""The normal distribution's 97.5 % point."""
_FLIPS = 20_000
"""Number of random sign flips if exact counting is too slow; they give a p-value of 0.05 to ±0.003."""

_COUNTABLE = 5e8
"""Number of steps of exact counting that take a few seconds."""


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Return the unbiased estimate of the probability that one of ``k`` responses is correct.

    1 − C(n−c, k) / C(n, k), as a product that neither overflows nor cancels (Chen et al. 2021, arXiv
    2107.03374, eq. 1 and fig. 3).

    Args:
        samples: n responses to a problem.
        right: c of them that are correct.
        k: from 1 to n.

    Raises:
        ValueError: the counts are impossible.
    """
    if not 1 <= k <= samples or not 0 <= right <= samples:
        raise ValueError(f"pass@{k} is not defined for {right} correct responses of {samples}")
    if samples - right < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(samples - right + 1, samples + 1))


def mean_interval(values: Sequence[float], bounded: bool) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean over all problems, from one value per sampled problem.

    The interval is Wilson's if all values are 0 or 1, or all equal to the same bound, where a spread of zero
    would suggest certainty; otherwise it is the normal interval. A single problem carries no information on
    the spread, so its interval contains everything that is possible.

    Args:
        values: one value per problem.
        bounded: whether values are between 0 and 1 by definition.
    """
    mean, n = statistics.fmean(values), len(values)
    if bounded and (mean in (0.0, 1.0) or (n > 1 and set(values) <= {0.0, 1.0})):
        return wilson(mean, n)
    half = Z * statistics.stdev(values) / math.sqrt(n) if n > 1 else math.inf
    low, high = mean - half, mean + half
    return (max(0.0, low), min(1.0, high)) if bounded else (low, high)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of ``n`` (Wilson 1927)."""
    z2 = Z * Z
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    # Rounding must not move a bound past the share itself at 0 and at 1.
    return max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))


@dataclass(frozen=True, slots=True)
class Difference:
    """How the mean of B differs from that of A on the same problems.

    Attributes:
        mean: mean of B minus mean of A.
        interval: its 95 % confidence interval, normal, from the spread of the differences between problems.
        p: two-sided p-value of the paired sign-flip test.
        better, worse, equal: number of problems on which the mean of B is above, below and equal to that of
            A.
    """

    mean: float
    interval: tuple[float, float]
    p: float
    better: int
    worse: int
    equal: int


def difference(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]]) -> Difference:
    """Compare two models by their scores on the same problems.

    The test is the paired permutation test. If A and B do not differ, the difference of their means on each
    problem might as well have the other sign; p is the share of all 2^n sign patterns whose sum is at least
    as far from 0 as the observed one. The test assumes no distribution, and it uses the fact that a problem
    is equally hard for both, which two separate intervals do not. With one correct-or-wrong response per
    problem, it is McNemar's exact test. Correct-or-wrong scores are counted exactly, others by random flips
    with a fixed seed.

    Args:
        a: scores of A, by problem and sample.
        b: scores of B on the same problems, in the same order.

    Raises:
        ValueError: there are no problems, or the numbers of problems differ.
    """
    if not a or len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} problems cannot be paired")
    pairs = [statistics.fmean(y) - statistics.fmean(x) for x, y in zip(a, b, strict=True)]
    half = Z * statistics.stdev(pairs) / math.sqrt(len(pairs)) if len(pairs) > 1 else math.inf
    mean = statistics.fmean(pairs)
    scale = math.lcm(*{len(row) for row in (*a, *b)})
    whole = all(float(s).is_integer() for row in (*a, *b) for s in row)
    if whole and scale * sum(map(abs, pairs)) * len(pairs) < _COUNTABLE:
        p = _counted([round(scale * d) for d in pairs])
    else:
        p = _flipped(pairs)
    better, worse = sum(d > 0 for d in pairs), sum(d < 0 for d in pairs)
    return Difference(mean, (mean - half, mean + half), p, better, worse, len(pairs) - better - worse)


def _counted(differences: list[int]) -> float:
    """Return the p-value from the distribution of ±d_1 ± d_2 …, built one difference at a time."""
    found = abs(sum(differences))
    reach = sum(map(abs, differences))
    chances = np.zeros(2 * reach + 1)
    chances[reach] = 1.0
    for d in filter(None, map(abs, differences)):
        chances = 0.5 * (
            np.roll(chances, d) + np.roll(chances, -d)
        )  # the ends are still empty, so nothing wraps around
    sums = np.abs(np.arange(-reach, reach + 1))
    return min(1.0, float(chances[sums >= found].sum()))


def _flipped(differences: list[float]) -> float:
    found, draws = abs(sum(differences)), np.random.default_rng(0)
    moved = np.array([d for d in differences if d])
    extreme = 1  # the observed pattern is one of them
    for _ in range(_FLIPS):
        signs = draws.integers(0, 2, len(moved)) * 2 - 1
        extreme += bool(abs(float(signs @ moved)) >= found - 1e-12)
    return extreme / (_FLIPS + 1)
