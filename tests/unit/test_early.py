"""Processes that are there before their workers: a worker takes one over as if it had just been started."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from children import workers
from toys import Toy, never_made
from until import until

from areal.config import parse_config
from areal.placement.inventory import Inventory, probe
from areal.rollout.vllm_start import variables
from areal.runtime.early import started_early
from areal.runtime.engine_setup import engine_settings
from areal.runtime.plan import plan
from areal.workers.early import EarlyProcesses
from areal.workers.guard import Guard
from areal.workers.process import launch_guarded, start_early

MODULES = ("decimal", "toys", "no.such.module")


@pytest.fixture
def early() -> Iterator[EarlyProcesses]:
    with EarlyProcesses() as processes:
        start_early(processes, "toy", {"AREAL_TOY": "given"}, MODULES)
        yield processes


async def named(*names: str) -> list[psutil.Process]:
    """Return the processes that are there for workers, once they have the names of these."""
    await until(
        lambda: sorted(process.cmdline()[0] for process in workers()) == sorted(f"areal {n}" for n in names)
    )
    return workers()


def imported(toy: Toy) -> bool:
    return "decimal" in sys.modules


def variable(toy: Toy, name: str) -> str | None:
    return os.environ.get(name)


def paths(toy: Toy) -> list[str]:
    return sys.path


def say(toy: Toy, text: str) -> None:
    print(text, flush=True)


async def test_a_worker_takes_over_the_process_that_is_ready_for_it(early: EarlyProcesses):
    [ready] = await named("toy")
    toy = await launch_guarded(Guard(), early)("toy", {"AREAL_TOY": "given"}, Toy, start=5)
    assert toy.pid == ready.pid
    about = await toy.call(Toy.about)
    assert (about["name"], about["session"], about["given"]) == ("areal toy", toy.pid, "given")
    assert await toy.call(imported)
    assert await toy.call(Toy.add) == 6
    another = await launch_guarded(Guard(), early)("toy", {"AREAL_TOY": "given"}, Toy)
    assert another.pid != toy.pid, "it is taken over once"
    toy.kill()
    assert await asyncio.wait_for(toy.ended, 60) == "killed by SIGKILL"
    await another.close()


async def test_it_has_the_environment_the_modules_and_the_output_of_the_moment_when_it_is_taken_over(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
):
    monkeypatch.setenv("AREAL_GONE", "1")
    with EarlyProcesses() as early:
        start_early(early, "toy", {"AREAL_TOY": "given"}, ["this"])  # which prints
        monkeypatch.delenv("AREAL_GONE")
        monkeypatch.setenv("AREAL_NEW", "new")
        monkeypatch.setenv("AREAL_TOY", "ours")
        monkeypatch.syspath_prepend(tmp_path)
        await asyncio.sleep(0.5)
        assert capfd.readouterr() == ("", "")
        toy = await launch_guarded(Guard(), early)("toy", {"AREAL_TOY": "given"}, Toy)
    assert [await toy.call(variable, f"AREAL_{name}") for name in ("GONE", "NEW", "TOY")] == [
        None,
        "new",
        "given",
    ]
    assert str(tmp_path) in await toy.call(paths)
    await toy.call(say, "a word")
    printed = capfd.readouterr()
    assert "Beautiful is better than ugly." in printed.err, "what was printed before is not lost"
    assert printed.out == "a word\n"
    await toy.close()


async def test_one_with_another_environment_or_name_is_not_taken_over(early: EarlyProcesses):
    [ready] = await named("toy")
    other = await launch_guarded(Guard(), early)("other", {"AREAL_TOY": "given"}, Toy)
    assert other.pid != ready.pid
    toy = await launch_guarded(Guard(), early)("toy", {"AREAL_TOY": "changed"}, Toy)
    assert toy.pid != ready.pid
    assert (await toy.call(Toy.about))["given"] == "changed"
    assert not psutil.pid_exists(ready.pid), "nobody needs it any more"
    await asyncio.gather(toy.close(), other.close())


async def test_in_place_of_one_that_has_died_another_is_started(early: EarlyProcesses):
    [ready] = await named("toy")
    ready.send_signal(signal.SIGKILL)
    ended = os.WEXITED | os.WNOWAIT | os.WNOHANG
    await until(lambda: os.waitid(os.P_PID, ready.pid, ended) is not None)
    toy = await launch_guarded(Guard(), early)("toy", {"AREAL_TOY": "given"}, Toy)
    assert toy.pid != ready.pid
    await toy.close()


async def test_a_start_that_is_cancelled_leaves_no_process(early: EarlyProcesses):
    starting = asyncio.ensure_future(
        launch_guarded(Guard(), early)("toy", {"AREAL_TOY": "given"}, never_made)
    )
    await asyncio.sleep(0.5)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert workers() == []


async def test_what_nobody_takes_over_ends_with_the_block():
    with EarlyProcesses() as early:
        start_early(early, "toy", {}, MODULES)
        await named("toy")
    assert workers() == []


def test_it_ends_with_the_process_that_started_it():
    code = (
        "from areal.workers.process import *; early = EarlyProcesses();"
        "start_early(early, 'toy', {}, ['this']); print('started', flush=True); input()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "started\n"
    [process] = psutil.Process(owner.pid).children()
    owner.kill()
    owner.communicate()
    assert psutil.wait_procs([process], timeout=60)[1] == []


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"engine": {"count": 2, "threads": 2, "memory": 3}, "learner": {"processes": 2}},
        {"engine": {"tensor_parallel": 2, "eager": False}},
    ],
)
@pytest.mark.parametrize("cores", [2, 8])
async def test_a_run_starts_those_that_its_plan_asks_for(settings: dict[str, Any], cores: int):
    config = parse_config(settings)
    engines, ranks = config.engine.count or 1, config.learner.processes
    names = [f"engine {n}" for n in range(engines)]
    names += [f"learner rank {n}" for n in range(ranks) if cores > 2]
    here = Inventory((replace(probe("cpu").hosts[0], cores=cores),))
    with started_early(config, inventory=here) as early:
        assert early is not None
        await named(*names)
        checked = plan(config, inventory=here)
        asked = [
            (f"engine {n}", variables(engine_settings(checked, n, engine, (1,), None)))
            for n, engine in enumerate(checked.placement.engines)
        ]
        asked += [(f"learner rank {n}", {}) for n, _ in enumerate(checked.placement.ranks)]
        found = [early.take(name, environment) for name, environment in asked]
        taken = [process for process in found if process is not None]
        assert len(taken) == len(names)
    for process in taken:
        process.close()
    assert workers() == []
    with started_early(parse_config({"model": "http://localhost:1/v1#name"}), training=False) as early:
        assert early is None
