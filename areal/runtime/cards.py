"""Which GPU each engine has: the learner has the first ones."""

from __future__ import annotations

from areal.errors import UserError


def engine_cards(count: int | None, first: int | None, cards: int, learners: int) -> tuple[int, ...]:
    """Return the GPU of each engine, counted from 0.

    Args:
        count: ``engine.count``.
        first: ``engine.gpu``.
        cards: how many GPUs torch sees.
        learners: how many of them, from 0 on, the learner has; 0: there is no learner.

    Raises:
        UserError: there are not as many.
    """
    if first is not None and first >= cards:
        raise UserError(
            f"engine.gpu={first}, but torch sees {cards}, counted from 0; give another or leave it out"
        )
    if count is not None and count > cards:
        raise UserError(
            f"engine.count={count}, but torch sees {cards} GPU{'s' * (cards > 1)}, and each engine needs "
            f"one: set it to {cards} or less"
        )
    if count is None:
        count = max(1, cards - learners) if first is None else 1
    if first is None:
        first = learners if learners < cards else 0
    return tuple((first + engine) % cards for engine in range(count))
