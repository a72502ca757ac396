"""A run that was killed between two checkpoints goes on after its last update; nothing finished is lost."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import re
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scripted
from children import workers
from dummy_batches import group as dummy_group
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import GROUPS, ScriptedEngine, trainer_on
from scripted import settings as run_settings

import areal
from areal.cli import main
from areal.config import Config, parse_config
from areal.errors import Interrupted, UserError
from areal.rollout.admission import Admission
from areal.runtime.journal import Journal, read_journal
from areal.runtime.loop import Trainer
from areal.runtime.resuming import find_resume_point
from areal.runtime.rollout_state import RolloutState, meet_deadlines, recover, remaining, state_of
from areal.telemetry.run_directory import RunDirectory, read_metrics
from areal.trajectory import Episode, Group, Trajectory
from areal.workers import inline

NEVER = {"checkpoint": {"every": 0}}


def killed_after(version: int) -> Callable[[Trainer], None]:
    """End a run without a checkpoint after an update."""

    def look(trainer: Trainer) -> None:
        if trainer.version == version:
            trainer.stop()
            trainer.stop_at_once()

    return look


async def asynchronous(*args: Any, **parts: Any) -> None:
    """Train; the learner is in this process, which is faster to start."""
    async with trainer_on(*args, launch=inline.launch, **parts) as trainer:
        await trainer.run()


async def killed(
    run: RunDirectory, config: Config, version: int, engine: ScriptedEngine | None = None
) -> None:
    with pytest.raises(Interrupted, match="stopped immediately"):
        await asynchronous(ScriptedEngine(), run, config, recorded=killed_after(version))


def consumed(run: RunDirectory, first: int = 1) -> list[int]:
    steps = (step for step in run.recorded_steps() if step >= first)
    return [line["id"] for step in steps for line in run.read_rollouts(step)]


def losses(run: RunDirectory) -> list[tuple[int, float, float]]:
    return [(line["step"], line["loss"], line["grad_norm"]) for line in read_metrics(run.path)]


def contents(run: RunDirectory) -> dict[Path, bytes]:
    """All files but logs and the status, which say how the run that failed went."""
    kept = (path for path in run.path.rglob("*") if path.is_file())
    return {path: path.read_bytes() for path in kept if path.suffix != ".log" and path.stem != "status"}


async def test_at_eta_zero_a_killed_run_is_the_undisturbed_one_to_the_bit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    """Killed before its first checkpoint, then after one, and each time between two."""
    config = run_settings(tmp_path, "whole", steps=7)
    whole = RunDirectory.create(config)
    await asynchronous(ScriptedEngine(), whole, config)

    config = run_settings(tmp_path, "killed", steps=7, checkpoint={"every": 4})
    run = RunDirectory.create(config)
    await killed(run, config, 3)
    assert not list(run.checkpoints.glob("step-*")), "there is none yet"
    point = find_resume_point(run, config)
    assert (point.checkpoint, point.recorded) == (None, 3)
    with pytest.raises(Interrupted):
        await asynchronous(ScriptedEngine(), run, config, point, recorded=killed_after(6))
    point = find_resume_point(run, config)
    assert point.version in (0, 4), "its checkpoint was being written, perhaps"
    assert point.recorded == 6
    engine = ScriptedEngine()
    await asynchronous(engine, run, config, point)
    assert losses(run) == losses(whole)
    assert consumed(run) == consumed(whole) == list(range(7 * GROUPS))
    assert "damaged" not in caplog.text
    assert "different losses" not in caplog.text
    assert len(engine.seeds) <= 2 * GROUPS * 4, "nothing of the updates before is generated again"
    assert areal.replay(run.path).verdict == "bitwise identical: 7 updates"


async def test_stale_groups_that_had_finished_are_used_and_those_in_flight_are_counted(tmp_path: Path):
    config = run_settings(tmp_path, "r", steps=8, **NEVER)
    config.rollout.max_staleness = 3
    run = RunDirectory.create(config)
    await killed(run, config, 4)
    found = read_journal(run.journal)
    assert found is not None
    gone = set(consumed(run))
    waiting = {n for n, (_, group) in found.outstanding.items() if group is not None} - gone
    in_flight = {n for n, (_, group) in found.outstanding.items() if group is None} - gone
    await asynchronous(ScriptedEngine(), run, config, find_resume_point(run, config))
    after = [line for step in (5, 6, 7, 8) for line in run.read_rollouts(step)]
    lines = read_metrics(run.path)
    assert [line["step"] for line in lines] == list(range(1, 9)), "no update twice"
    assert len(set(consumed(run))) == len(consumed(run)) == 8 * GROUPS
    assert lines[-1]["rollout/regenerated"] == len(in_flight)
    (event,) = [e for e in run.events() if e["event"] == "resumed"]
    counts = {"version": 4, "redone": 4, "kept": len(waiting), "regenerated": len(in_flight), "dropped": []}
    assert {name: event[name] for name in counts} == counts
    assert max(line["staleness/max"] for line in lines) <= 3
    for line in after:
        if line["id"] in waiting:
            group = found.outstanding[line["id"]][1]
            assert group is not None
            assert line == json.loads(json.dumps(group.to_json())), "token for token"
    assert areal.replay(run.path).verdict == "bitwise identical: 8 updates"


def told(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    """What a command prints."""
    with pytest.raises(SystemExit):
        main(list(words))
    return capsys.readouterr()


async def test_with_other_learner_settings_it_goes_on_from_the_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    config = run_settings(tmp_path, "r", steps=6, checkpoint={"every": 2})
    run = RunDirectory.create(config)
    await killed(run, config, 5)
    more: dict[str, Any] = {"learner": {"threads": 1, "max_mismatch": "inf", "learning_rate": 1e-3}}
    other = run_settings(tmp_path, "r", steps=6, **more)
    point = find_resume_point(run, other)
    assert point.changed == ("learner.learning_rate: 5e-05 → 0.001",)
    (notice,) = point.notices
    assert point.version in (2, 4)
    assert notice.startswith(f"updates {point.version + 1} to 5 are discarded")
    said = partial(told, capsys, "train", "--resume", str(run.path))
    # A checkpoint may have been in the making until now.
    discarded = r"warning: updates \d to 5 are discarded, because .*learner.learning_rate: 5e-05 → 0.001\)"
    assert re.search(f"# {discarded}", said("learner.learning_rate=1e-3", "--dry-run").out)
    # Before the run starts: here, the agent does not have the option.
    errors = said("learner.learning_rate=1e-3", "agent_options.none=1").err.splitlines()
    assert re.match(discarded, errors[0])
    assert errors[1].startswith("areal: error: ")
    assert "discarded" not in said("agent_options.none=1").err
    assert "discarded" not in said("--dry-run").out
    await asynchronous(ScriptedEngine(), run, other, point)
    assert [line["step"] for line in read_metrics(run.path)] == [1, 2, 3, 4, 5, 6]
    assert consumed(run) == list(range(6 * GROUPS))
    assert areal.replay(run.path).verdict.startswith("bitwise identical")


async def test_a_damaged_batch_is_made_anew_from_its_groups(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    config = run_settings(tmp_path, "r", steps=4, **NEVER)
    run = RunDirectory.create(config)
    await killed(run, config, 3)
    before = losses(run)
    (run.path / "rollouts" / "step-000002.jsonl").write_text('{"id": 2, "ver')
    engine = ScriptedEngine()
    await asynchronous(engine, run, config, find_resume_point(run, config))
    assert "the recorded batch of update 2 is damaged" in caplog.text
    assert losses(run)[:3] == before, "at η=0 the same groups are generated"
    assert consumed(run) == list(range(4 * GROUPS))


async def test_a_model_that_has_changed_is_refused(tmp_path: Path):
    config = run_settings(tmp_path, "r", steps=4, **NEVER)
    run = RunDirectory.create(config)
    await killed(run, config, 1)
    starts = [json.loads(line) for line in (run.path / "starts.jsonl").read_text().splitlines()]
    starts[0]["weights"] = "0" * 64
    (run.path / "starts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in starts))
    before = contents(run)
    with pytest.raises(UserError, match="have changed since the run began"):
        await asynchronous(ScriptedEngine(), run, config, find_resume_point(run, config))
    assert contents(run) == before


@pytest.mark.parametrize("removed", [False, True])
async def test_a_run_directory_that_vanishes_ends_the_run_in_one_line(tmp_path: Path, removed: bool):
    """Also one that has a learner in a process of its own, which may be about to write there, too."""
    config = run_settings(tmp_path, "r", steps=50, checkpoint={"every": 1})
    run = RunDirectory.create(config)

    def take_away(trainer: Trainer) -> None:
        if trainer.version == 2:
            run.path.rename(tmp_path / "elsewhere")
            if removed:
                shutil.rmtree(tmp_path / "elsewhere")

    with pytest.raises(UserError) as raised:
        await scripted.asynchronous(ScriptedEngine(), run, config, recorded=take_away)
    assert (
        str(raised.value)
        == f"{run.path} no longer exists: it was removed or moved while the run was writing to it"
    )
    assert not run.path.exists(), "nothing makes half of it anew"
    assert workers() == []
    if not removed:
        assert consumed(RunDirectory(tmp_path / "elsewhere")) == [0, 1], "it can be resumed there"


# --- the rollout side alone, at any moment ---------------------


def finished_group(number: int, admitted: int, sampled: int) -> Group:
    """A group whose tokens were sampled by the weights of two versions."""
    made = Trajectory(
        tokens=np.array([3, number, 5], np.int32),
        loss_mask=np.array([False, True, True]),
        logprobs=np.array([0, -0.1, -1 / 3], np.float32),
        versions=np.array([-1, admitted, sampled], np.int32),
    )
    return Group(number, admitted, [Episode([made], number / 3, task={"text": "a line\nand a word"})])


class Miniature:
    """A run without engine and learner: real admission, real journal, real recorded batches.

    ``learner`` is the number of updates; the batch of the last one may not be recorded yet.
    """

    def __init__(self, folder: Path, batch: int, eta: float) -> None:
        self.batch, self.eta = batch, eta
        self.run = RunDirectory.create(parse_config({"output": folder, "name": "r"}))
        self.base = RolloutState()
        self.admission: Admission[Group] = Admission(batch, eta)
        self.learner = 0
        self.pending: list[Group] | None = None
        self.synced = 0

    async def start(self) -> None:
        self.journal = Journal(self.run, self.admission, growth=1500)
        await self.journal.start()
        self.synced = self.run.journal.stat().st_size

    def in_flight(self) -> list[int]:
        return [number for number, _, group in self.admission.outstanding() if group is None]

    def finish(self, number: int) -> None:
        admitted = self.admission.admitted_at(number)
        self.admission.finish(number, finished_group(number, admitted, self.admission.version))

    def update(self) -> None:
        if self.pending is None and (groups := self.admission.take(self.learner)) is not None:
            for group in groups:
                for trajectory in group.trajectories:
                    assert self.learner - trajectory.oldest_version <= self.eta
                    assert trajectory.versions.max() <= self.learner, "nobody samples with weights to come"
            self.pending = groups
            self.learner += 1

    async def record(self) -> None:
        if self.pending is not None:
            await self.journal.consume(self.learner, self.pending)
            self.pending = None
            self.synced = self.run.journal.stat().st_size

    def checkpoint(self) -> None:
        if self.pending is None:
            self.base = state_of(self.admission)
            self.base.version = self.learner

    async def crash(self, cut: Callable[[int, int], int]) -> None:
        """Lose everything but what is on the disk, of which the journal loses its end."""
        await self.journal.close()
        data = self.run.journal.read_bytes()
        kept = data[: cut(self.synced, len(data))]
        self.run.journal.write_bytes(kept)
        steps = self.run.recorded_steps()
        assert steps == list(range(1, len(steps) + 1))
        since = frozenset(consumed(self.run, self.base.version + 1))
        state = remaining(self.base, read_journal(self.run.journal), since, len(steps))
        for _, group in state.outstanding.values():
            assert group is None or group.trajectories[0].versions.max() <= len(steps), (
                "of a future that is lost"
            )
        whole = len(kept) >= self.synced
        meet_deadlines(state, self.batch, self.eta)
        if whole:
            assert state.dropped == []
            self._nothing_finished_is_lost(kept, state)
        self.admission = Admission(self.batch, self.eta, len(steps))
        recover(self.admission, state)
        self.learner, self.pending = len(steps), None
        await self.start()

    def _nothing_finished_is_lost(self, kept: bytes, state: RolloutState) -> None:
        """Each finished group that has a whole record, and was neither consumed nor rejected, is there."""
        expected: dict[int, Group] = {}
        for line in kept.split(b"\n")[:-1]:
            _, kind, number, *rest = line.decode().split(" ", 4)
            if kind == "finished":
                expected[int(number)] = Group.from_json(json.loads(rest[1]))
            elif kind == "rejected":
                expected.pop(int(number), None)
        gone = consumed(self.run)
        for number, group in expected.items():
            if number not in gone and max(group.trajectories[0].versions) <= state.version:
                found = state.outstanding[number][1]
                assert found is not None
                assert found.to_json() == group.to_json()

    def goes_on(self) -> None:
        """From any state all that is outstanding is consumed in time."""
        ahead: Admission[int] = Admission(self.batch, self.eta, self.learner, self.admission.next_id)
        admitted = {number: version for number, version, _ in self.admission.outstanding()}
        for number, version in admitted.items():
            ahead.restore(number, version, number + 1)
        version = self.learner
        while admitted:
            if (taken := ahead.take(version)) is None:
                number = ahead.admit()  # raises where the gate is closed: that would be a deadlock
                ahead.finish(number, number + 1)
                continue
            assert all(version - admitted.pop(result - 1, version) <= self.eta for result in taken)
            version += 1
            ahead.advance(version)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3), st.sampled_from([0, 1, 2, 3, math.inf]), st.booleans(), st.data())
def test_a_crash_at_any_byte_loses_no_finished_group_and_keeps_the_bound(
    batch: int, eta: float, anywhere: bool, data: st.DataObject
):
    """``anywhere``: the machine went down, and the disk had even less of the journal than was asked of it."""

    def cut(synced: int, size: int) -> int:
        return data.draw(st.integers(0 if anywhere else synced, size))

    async def live(folder: Path) -> None:
        run = Miniature(folder, batch, eta)
        await run.start()
        for event in data.draw(st.lists(st.sampled_from("aaaaffffuuurrwwxsc"), min_size=20, max_size=70)):
            in_flight = run.in_flight()
            if event == "a" and run.admission.may_admit() and len(in_flight) < 3 * batch:
                run.admission.admit()
            elif event == "f" and in_flight:
                run.finish(data.draw(st.sampled_from(in_flight)))
            elif event == "x" and in_flight:
                run.admission.reject(data.draw(st.sampled_from(in_flight)))
            elif event == "u":
                run.update()
            elif event == "r":
                await run.record()
            elif event == "w" and run.learner > run.admission.version:
                run.admission.advance(run.learner)
            elif event == "s":
                run.checkpoint()
            elif event == "c":
                await run.crash(cut)
                run.goes_on()
        await run.record()
        await run.journal.close()
        ids = consumed(run.run)
        assert len(ids) == len(set(ids)), "no group twice"

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(live(Path(folder)))


async def test_the_journal_stays_small_and_its_lines_are_made_once(tmp_path: Path):
    run = RunDirectory.create(parse_config({"output": tmp_path, "name": "r"}))
    admission: Admission[Group] = Admission(2, 1)
    journal = Journal(run, admission, growth=20_000)
    await journal.start()
    sizes, rng = [], np.random.default_rng(0)
    for step in range(1, 60):
        for number in (admission.admit(), admission.admit()):
            admission.finish(number, dummy_group(rng, number, step - 1))
        groups = admission.take(step - 1)
        assert groups is not None
        await journal.consume(step, groups)
        assert [json.loads(json.dumps(g.to_json())) for g in groups] == run.read_rollouts(step)
        admission.advance(step)
        sizes.append(run.journal.stat().st_size)
    await journal.close()
    assert max(sizes) < 20_000 + 3 * (sizes[1] - sizes[0])
    assert any(later < earlier for earlier, later in itertools.pairwise(sizes)), "it was written anew"


async def test_a_full_disk_costs_the_journal_and_not_the_run(tmp_path: Path):
    run = RunDirectory.create(parse_config({"output": tmp_path, "name": "r"}))
    admission: Admission[Group] = Admission(1, 0)
    warnings: list[str] = []
    journal = Journal(run, admission, warnings.append)
    for step in (1, 2, 3):
        if step < 3:
            (run.path / ".journal.partial").unlink(missing_ok=True)
            (run.path / ".journal.partial").symlink_to("/dev/full")
        number = admission.admit()
        admission.finish(number, finished_group(number, step - 1, step - 1))
        groups = admission.take(step - 1)
        assert groups is not None
        await journal.consume(step, groups)
        admission.advance(step)
    assert len(run.read_rollouts(1)) == 1, "batches are recorded all the same"
    assert read_journal(run.journal) is not None, "there was room again"
    (line,) = warnings
    assert line.startswith(f"no space left for the journal in {run.path}; free some space; until")
    await journal.close()


@pytest.mark.parametrize("harm", ["nothing", "empty", "head", "flip"])
def test_a_damaged_journal_is_read_as_far_as_it_goes(tmp_path: Path, harm: str):
    run = RunDirectory.create(parse_config({"output": tmp_path, "name": "r"}))

    async def write() -> None:
        admission: Admission[Group] = Admission(2, 3)
        journal = Journal(run, admission)
        await journal.start()
        for number in (admission.admit(), admission.admit(), admission.admit()):
            admission.finish(number, finished_group(number, 0, 0))
        await journal.close()

    asyncio.run(write())
    lines = run.journal.read_bytes().split(b"\n")
    if harm == "nothing":
        run.journal.unlink()
    elif harm == "empty":
        run.journal.write_bytes(b"")
    elif harm == "head":
        run.journal.write_bytes(b"\n".join(lines[1:]))
    else:
        at = next(i for i, line in enumerate(lines) if b"finished 1 " in line)
        lines[at] = lines[at].replace(b"and a word", b"and a ward")
        run.journal.write_bytes(b"\n".join(lines))
    found = read_journal(run.journal)
    if harm != "flip":
        assert found is None
        return
    assert found is not None
    assert [group is not None for _, group in found.outstanding.values()] == [True, False, True]


def test_what_is_of_a_future_that_is_lost_is_not_used():
    """Killed after an update that is not recorded, whose weights the engine had already."""
    outstanding = {
        4: (1, finished_group(4, 1, 1)),
        5: (1, finished_group(5, 1, 2)),
        6: (2, None),
        7: (2, None),
    }
    state = remaining(RolloutState(0, 2, {}), RolloutState(1, 8, outstanding), frozenset({2, 3}), version=1)
    assert state.next_group == 6, "they begin anew, under their numbers"
    assert [(n, group is not None) for n, (_, group) in state.outstanding.items()] == [(4, True), (5, False)]
    later = remaining(
        RolloutState(0, 2, {0: (0, None)}), RolloutState(3, 8, outstanding), frozenset(), version=0
    )
    assert (later.next_group, list(later.outstanding)) == (2, [0]), "the journal is of a later time"


def test_what_cannot_be_consumed_in_time_is_left_out():
    state = RolloutState(3, 9, {5: (2, None), 6: (2, None), 7: (3, None), 8: (3, None)})
    meet_deadlines(state, 1, 1)
    assert list(state.outstanding) == [5, 7], "one batch each, until versions 3 and 4"
    assert state.dropped == [6, 8]
    meet_deadlines(state, 1, 0)
    assert state.dropped == [6, 8, 5]
