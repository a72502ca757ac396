"""A run in which nothing moves ends with a report; what it does can be seen from outside, at any time."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import freezing
import pytest
from scripted import Scored, ScriptedEngine, asynchronous, settings
from toys import Toy

from areal.cli import main
from areal.config import Config
from areal.errors import LearnerLost, RunStalled
from areal.rollout.engine import Completion, Sampling
from areal.runtime.monitor import Monitor
from areal.runtime.recording import Records
from areal.telemetry.progress import Progress
from areal.telemetry.run_directory import RunDirectory
from areal.telemetry.status import identity, read_status, rows, write_status
from areal.workers.process import launch, launch_guarded

SOON = 240
"""Seconds in which what stands still must be found, on the slowest machine."""


class Silent(ScriptedEngine):
    """Answers nothing from the second version on."""

    async def generate(self, ids: list[int], sampling: Sampling, *, images: object = ()) -> Completion:
        if self.version == 2:
            await asyncio.Future()
        return await super().generate(ids, sampling)


def config_of(folder: Path, stall_limit: float, **more: Any) -> Config:
    return settings(folder, "r", steps=50, run={"stall_limit": stall_limit, "max_restarts": 0}, **more)


async def ended(config: Config, engine: ScriptedEngine, **parts: Any) -> Path:
    directory = RunDirectory.create(config)
    async with asyncio.timeout(SOON):
        await asynchronous(engine, directory, config, **parts)
    return directory.path


async def test_a_run_that_stands_still_ends_and_says_who_waited_for_what(tmp_path: Path):
    with pytest.raises(RunStalled) as error:
        await ended(config_of(tmp_path, 15), Silent())
    path = tmp_path / "r" / "stall.txt"
    line = f"no progress for 15 s: the learner waits for a batch; report: {path}"
    assert str(error.value) == line
    report = path.read_text()
    assert re.search(r"^waiting +the learner for a batch, \d\d s$", report, re.MULTILINE)
    assert re.search(
        r"^groups +\d+ admitted, 2 in flight, 0 complete and not yet trained on$", report, re.MULTILINE
    )
    assert "learner rank 0" in report
    assert "Silent.generate (unit/test_monitor.py:" in report, "where the run's own tasks are"
    assert "Thread 0x" in report.partition("learner rank 0\n")[2], "and the threads of its workers"
    assert list((tmp_path / "r" / "checkpoints").glob("step-000002")), "what was trained is kept"
    status = read_status(tmp_path / "r")
    assert (status["state"], status["ended"], status["report"]) == ("ended", line, str(path))


async def test_a_learner_that_is_stopped_ends_the_run(tmp_path: Path):
    with pytest.raises(LearnerLost) as error:
        await ended(config_of(tmp_path, 30), ScriptedEngine(), rank=freezing.Stopped)
    path = tmp_path / "r" / "stall.txt"
    assert re.match(
        r"learner rank 0 ended: no heartbeat for \d s; it is stopped \(frozen\); "
        rf"report: {path}; engine.log in the run directory has its last output$",
        str(error.value),
    )
    assert re.search(r'freezing.py", line \d+ in update$', path.read_text(), re.MULTILINE)


async def test_a_report_reads_by_force_only_what_is_lost_anyway(tmp_path: Path):
    """Neither of these answers; of force, what still runs may crash."""
    config = config_of(tmp_path, 10_000)
    directory = RunDirectory.create(config)
    with Progress(config.steps, "", False, sys.stderr) as progress:
        guard = Monitor(config, Records(directory, progress)).guard
        toys = [await launch_guarded(guard)(name, {}, Toy) for name in ("lost", "other")]
        holding = [asyncio.ensure_future(toy.call(Toy.compute, 10_000)) for toy in toys]
        async with asyncio.timeout(SOON):
            for toy in toys:
                while "it does not answer" not in await toy.stacks(forced=False):
                    pass
        await guard.report(toys[0], "it is frozen")
        for toy in toys:
            toy.kill()
        await asyncio.wait(holding)
    lost, other = (directory.path / "stall.txt").read_text().split("\nlost\n")[1].split("\nother\n")
    assert re.search(r'toys.py", line \d+ in compute$', lost, re.MULTILINE)
    assert other.endswith("it does not answer\n\n")


async def test_an_environment_that_takes_long_is_not_accused_and_seen(tmp_path: Path):
    seen: list[dict[str, Any]] = []

    class Slow(Scored):
        """Takes longer for one step than anything may stand still."""

        def step(self, action: str) -> Any:
            if not seen:
                time.sleep(50)
                seen.append(read_status(tmp_path / "r"))
            return super().step(action)

    config = config_of(tmp_path, 30)  # in which the learner must start, too, on the slowest machine
    config.steps = 2
    # Nobody watches over the learner's process: on a busy machine it may be silent for a tenth of the limit.
    run = await ended(config, ScriptedEngine(), env=Slow, launch=launch)
    shown = dict(rows(seen[0]))
    assert shown["waiting"].startswith("the learner for a batch, ")
    assert re.search(r" and [1-4] environment calls \(the longest \d\d s\)$", shown["episodes"])
    status = read_status(run)
    assert (status["ended"], status["version"]) == ("finished", 2)
    assert not list(run.glob("stall*"))


def status_of(folder: Path, **changed: Any) -> dict[str, Any]:
    status = {
        **identity(),
        "time": time.time(),
        "seconds": 5.0,
        "ended": "",
        "version": 3,
        "steps": 9,
        "waits": [{"who": "the learner", "what": "a batch", "seconds": 2.0}],
        "rates": {"tokens_per_s": 1234.0, "updates_per_hour": 60.0},
        "restarts": 0,
        "report": "",
        "workers": [],
        **changed,
    }
    (folder / "config.yaml").touch()
    write_status(folder, status)
    return status


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["status", *arguments])
    assert isinstance(exit_.value.code, int)
    return exit_.value.code, " ".join(capsys.readouterr().out.split())


def test_status_shows_a_run_and_says_how_it_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    status_of(tmp_path)
    code, text = shown(capsys, str(tmp_path))
    assert code == 0
    assert f"running for 5 s, process {os.getpid()} on " in text
    assert "the learner for a batch, 2 s" in text
    assert "1,234 tokens/s, 60 updates/h" in text
    code, text = shown(capsys, str(tmp_path), "--json")
    assert json.loads(text)["state"] == "running"

    status_of(tmp_path, ended="finished")
    assert "ended 0 s ago: finished" in shown(capsys, str(tmp_path), "--watch")[1]

    status_of(tmp_path, began="1")  # another process has its number now
    code, text = shown(capsys, str(tmp_path))
    assert code == 1
    assert "killed: process " in text

    status_of(tmp_path, host="elsewhere", time=time.time() - 3600)
    assert "its last status is 1 h 0 min old" in shown(capsys, str(tmp_path))[1]

    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        began = Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[19]
        other.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, other.pid, os.WSTOPPED)
        status_of(tmp_path, pid=other.pid, began=began)
        assert "suspended for 5 s" in shown(capsys, str(tmp_path))[1]
        other.kill()


def test_status_of_what_is_no_run_or_has_not_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for wanted in (r"is not a run directory", r"has no status.json"):
        with pytest.raises(SystemExit) as exit_:
            main(["status", str(tmp_path)])
        assert exit_.value.code == 2
        assert wanted in capsys.readouterr().err
        (tmp_path / "config.yaml").touch()
