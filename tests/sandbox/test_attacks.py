"""Each attack gets the better of a naive grader, and of ours never: as root, and as nobody."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import attacks
import naive
import ours
import pytest

CORPUS = attacks.corpus()
WON = {
    "false pass": lambda seen: seen.get("passed") is True,
    "hang": lambda seen: not seen["returned"],
    "flood": lambda seen: not seen["returned"] or max(seen["grader_mb"], seen["disk_mb"]) > 150,
    "fork": lambda seen: seen["survivors"] > 0 or seen["processes"] > 16 or seen["threads"] > 100,
    "escape": lambda seen: seen.get("probe") is True,
    "leak": lambda seen: seen.get("probe") is True,
    "bomb": lambda seen: not seen["returned"] or seen.get("crashed") or seen["owned"],
    "poison": lambda seen: seen.get("honest") is not True,
}
"""What it means to get the better of a naive grader (attacks.py)."""

NEEDS = {
    "rings for the kernel": "io_uring",
    "opens a socket to the hypervisor": "vsock",
    "keys of the kernel": "keyrings",
    "a queue of the system": "message queues",
}
"""Attacks that fail, on anyone, where the kernel lacks something."""


def observe(grader: str, source: str, second: str = "") -> dict:
    job = {"grader": grader, "source": source, "second": second}
    done = subprocess.run(
        [os.path.realpath(sys.executable), str(Path(naive.__file__))],
        input=json.dumps(job),
        env={"AREAL_TEST_SECRET": "hush", "PATH": "/usr/bin:/bin"},
        start_new_session=True,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if "unshare" in done.stderr:
        pytest.skip("a naive grader is run only in namespaces of its own, and this host gives none")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_corpus_is_large_enough():
    assert len(CORPUS) >= 60
    assert len({attack.source for attack in CORPUS}) == len(CORPUS)
    assert set(Counter(attack.category for attack in CORPUS)) == set(WON)


@pytest.mark.parametrize("grader", [name for name in naive.GRADERS if name not in ("pool", "probing")])
def test_a_naive_grader_is_right_about_honest_code(grader):
    assert observe(grader, naive.HONEST)["passed"] is True
    assert observe(grader, "def f(x): return x + 1")["passed"] is False


def test_the_naive_pool_serves_honest_code():
    seen = observe("pool", naive.HONEST)
    assert (seen["passed"], seen["honest"]) == (True, True)


@pytest.mark.parametrize("attack", CORPUS, ids=lambda attack: f"{attack.category}: {attack.name}")
def test_attack_gets_the_better_of_a_naive_grader(attack):
    seen = observe(attack.grader, attack.source, attack.second)
    if not WON[attack.category](seen) and attack.name in NEEDS:
        pytest.skip(f"this kernel has no {NEEDS[attack.name]}")
    assert WON[attack.category](seen), seen


def check(result: dict, form_count: int) -> None:
    """Assert that an attack came to nothing."""
    assert len(result["scores"]) == form_count
    assert all(score == 0 for score, _ in result["scores"].values()), "it scored"
    assert result["slowest"] <= ours.WALL_S + 1, "it was not ended in time"
    assert not any(result["probe"] or []), "it reached something, or something stayed"
    assert result["untouched"], "it wrote or called"
    assert result["honest"] == 1, "the next run suffered"
    assert result["infra"] == 0, "it passed for a failure of ours"
    assert result["pool"], "a zygote had to be replaced"


async def test_attacks_score_nothing(sandbox):
    found = [result async for result in ours.results()]
    assert len(found) == len(CORPUS)
    problems = {}
    for result in found:
        try:
            check(result, len(ours.FORMS))
        except AssertionError as error:
            problems[f"{result['category']}: {result['name']}"] = f"{error}: {result}"
    assert not problems


def test_attacks_score_nothing_as_nobody(as_nobody, sandbox):
    lines = as_nobody(str(Path(ours.__file__)), timeout=550).splitlines()
    assert len(lines) == len(CORPUS)
    for line in lines:
        check(json.loads(line), len(ours.FORMS))
