"""No attack gets the better of our verifiers: as root, and as nobody."""

from __future__ import annotations

import json
from pathlib import Path

import attacks
import ours

CORPUS = attacks.corpus()


def check(result: dict, form_count: int) -> None:
    """Assert that an attack came to nothing."""
    assert len(result["scores"]) == form_count
    assert all(score == 0 for score, _ in result["scores"].values()), "it scored"
    assert ours.in_time(result) or not result["last"], "it was not ended in time, or slowed the next run"
    assert not any(result["probe"] or []), "it reached something, or something stayed"
    assert result["untouched"], "it wrote or called"
    assert result["honest"] == 1, "the next run suffered"
    assert result["infra"] == 0, "it passed for a failure of ours"
    assert result["pool"], "a zygote had to be replaced"


def check_all(found: list[dict], count: int) -> None:
    """Assert that each of so many attacks came to nothing."""
    assert sum(result["last"] for result in found) == count
    problems = {}
    for result in found:
        try:
            check(result, len(ours.FORMS))
        except AssertionError as error:
            problems[f"{result['category']}: {result['name']}"] = f"{error}: {result}"
    assert not problems


async def test_attacks_score_nothing(sandbox):
    check_all(await ours.results(), len(CORPUS))


def test_attacks_score_nothing_as_nobody(as_nobody, sandbox):
    lines = as_nobody(str(Path(ours.__file__)), timeout=550).splitlines()
    check_all(list(map(json.loads, lines)), len(CORPUS))


REACHING = ("escape", "leak", "poison")
OLDER = 5
"""The version of Landlock before the one that keeps signals and abstract sockets inside."""


async def test_attacks_reach_nothing_on_an_older_kernel(sandbox):
    chosen = [attack for attack in CORPUS if attack.category in REACHING]
    check_all(await ours.results(OLDER, *REACHING), len(chosen))


def test_attacks_reach_nothing_on_an_older_kernel_as_nobody(as_nobody, sandbox):
    chosen = [attack for attack in CORPUS if attack.category in REACHING]
    lines = as_nobody(str(Path(ours.__file__)), str(OLDER), *REACHING, timeout=550).splitlines()
    check_all(list(map(json.loads, lines)), len(chosen))
