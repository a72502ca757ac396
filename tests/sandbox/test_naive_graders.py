"""Each attack gets the better of a naive grader: it is an attack."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import attacks
import naive
import pytest

CORPUS = attacks.corpus()
PATIENCE = (1, 3, 9)
"""Seconds that a grader gives what it grades, from try to try."""
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


def observe(grader: str, source: str, second: str = "", timeout_s: int = 1) -> dict:
    job = {"grader": grader, "source": source, "second": second}
    done = subprocess.run(
        [os.path.realpath(sys.executable), str(Path(naive.__file__))],
        input=json.dumps(job),
        env={
            "AREAL_TEST_SECRET": "hush",
            "PATH": "/usr/bin:/bin",
            "GRADER_TIMEOUT_S": str(timeout_s),
        },
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
    assert any(observe(grader, naive.HONEST, timeout_s=s)["passed"] is True for s in PATIENCE)
    assert observe(grader, "def f(x): return x + 1")["passed"] is False


def test_the_naive_pool_serves_honest_code():
    seen = observe("pool", naive.HONEST)
    assert (seen["passed"], seen["honest"]) == (True, True)


def observe_attack(attack: attacks.Attack) -> dict:
    """Let it try again with more time: on a busy machine all is slow, the attack and the grader."""
    for timeout_s in PATIENCE:
        seen = observe(attack.grader, attack.source, attack.second, timeout_s)
        if WON[attack.category](seen):
            break
    return seen


@pytest.fixture(scope="module")
def hanging(request) -> dict[str, Future[dict]]:
    """What is seen of the hangs that were selected, eight at a time: it takes nothing but waiting.

    What goes wrong with one is for its own test.
    """
    specs = [getattr(item, "callspec", None) for item in request.session.items]
    chosen = [spec.params.get("attack") for spec in specs if spec]
    # Other files have attacks of other kinds.
    hangs = [a for a in chosen if isinstance(a, attacks.Attack) and a.category == "hang"]
    with ThreadPoolExecutor(8) as threads:
        return {attack.name: threads.submit(observe_attack, attack) for attack in hangs}


@pytest.mark.parametrize("attack", CORPUS, ids=lambda attack: f"{attack.category}: {attack.name}")
def test_attack_gets_the_better_of_a_naive_grader(attack, hanging):
    seen = hanging[attack.name].result() if attack.category == "hang" else observe_attack(attack)
    if not WON[attack.category](seen) and attack.name in NEEDS:
        pytest.skip(f"this kernel has no {NEEDS[attack.name]}")
    assert WON[attack.category](seen), seen
