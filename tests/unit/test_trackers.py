"""Trackers get the run, and cannot harm it."""

from __future__ import annotations

import asyncio
import json
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import pytest
import yaml
from tracked import ROLLOUT, consumed, reward

from areal.cli import main
from areal.config import Config, parse_config
from areal.errors import UserError
from areal.telemetry.trackers.interface import Consumed
from areal.telemetry.trackers.tracking import Trackers, require_trackers

HERE = Path(__file__).parent
SOON = 120
"""Seconds in which something must have happened, on the slowest machine."""
BEFORE, AFTER = {step: reward(step, 0) for step in (1, 2)}, {step: reward(step, 2) for step in (3, 4, 5)}
ONCE = {step: reward(step, 0) for step in (1, 2, 3, 4)}


def environment(folder: Path) -> dict[str, str]:
    return {
        "WANDB_MODE": "offline",
        "SWANLAB_MODE": "offline",
        "SWANLAB_ROOT": str(folder / "home"),
        "TRACKIO_DIR": str(folder / "trackio"),
        "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "WANDB_ERROR_REPORTING": "false",
    }


def tracked(name: str, folder: Path) -> tuple[Path, list[str]]:
    """A run of four updates, of which two are made again after it was killed; return it and what is said."""
    pytest.importorskip(name)
    run = folder / "r"
    run.mkdir()
    for version, last, succeeded in (("0", "4", "False"), ("2", "5", "True")):
        done = subprocess.run(
            [sys.executable, HERE / "tracked.py", name, run, version, last, succeeded],
            cwd=folder, env={**os.environ, **environment(folder)},
            capture_output=True, text=True, check=False, timeout=SOON,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return run, (folder / "said").read_text().splitlines()


def test_tensorboard(tmp_path: Path):
    run, said = tracked("tensorboard", tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert said == [f"tensorboard: {run}/tensorboard"] * 2
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert set(events.Tags()["scalars"]) == {"reward/mean", "eval/math-v1/avg@8"}
    found = [(event.step, event.value) for event in events.Scalars("reward/mean")]
    assert found == [*BEFORE.items(), *AFTER.items()], "what is made again takes the place of what was there"
    assert {(e.step, e.value) for e in events.Scalars("eval/math-v1/avg@8")} == {(2, 0.25)}
    [first, _] = (e.tensor_proto.string_val[0].decode() for e in events.Tensors("config/text_summary"))
    assert json.loads(first)["steps"] == 1234
    [text] = (e.tensor_proto.string_val[0].decode() for e in events.Tensors("rollouts/text_summary"))
    assert "**update 1, group 7, reward 0.5**" in text
    assert "\n    # <b>42</b>" in text, "as it stands"


def wandb_records(path: Path) -> Iterator[Any]:
    """What an offline run has written: a log as LevelDB has it, in blocks of 32 KiB."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, whole = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if (left := 2**15 - at % 2**15) < 7:
            at += left
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        whole, at = whole + data[at + 7 : at + 7 + size], at + 7 + size
        if kind in (1, 4):  # a whole record, or the end of one
            yield Record.FromString(whole)
            whole = b""


def wandb_rows(path: Path) -> list[dict[str, Any]]:
    return [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in wandb_records(path)
        if record.WhichOneof("record_type") == "history"
    ]


def test_wandb(tmp_path: Path):
    run, said = tracked("wandb", tmp_path)
    assert said == [f"wandb: {run}/wandb"] * 2
    known = (run / "trackers" / "wandb").read_text()
    files = sorted(run.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    assert [path.name for path in files] == [f"run-{known}.wandb"] * 2, "one run for W&B"
    for path, expected in zip(files, (ONCE, AFTER), strict=True):
        rows = wandb_rows(path)
        assert {row["step"]: row["reward/mean"] for row in rows if "reward/mean" in row} == expected
        assert [row["step"] for row in rows if "eval/math-v1/avg@8" in row] == [2], "it may come late"
        [began] = (r.run for r in wandb_records(path) if r.WhichOneof("record_type") == "run")
        assert (began.project, began.display_name) == ("areal", "r")
        assert {c.key: c.value_json for c in began.config.update}["steps"] == "1234"
    assert "loss" not in {key for path in files for row in wandb_rows(path) for key in row}
    [table] = run.glob("wandb/*/files/media/table/*.json")
    assert json.loads(table.read_text()) == {"columns": [*ROLLOUT], "data": [[*ROLLOUT.values()]]}
    codes = [r.exit.exit_code for path in files for r in wandb_records(path) if r.HasField("exit")]
    assert codes == [1, 0]


def test_mlflow(tmp_path: Path):
    run, said = tracked("mlflow", tmp_path)
    from mlflow import MlflowClient

    place = environment(tmp_path)["MLFLOW_TRACKING_URI"]
    assert said == [f"mlflow: {place}"] * 2
    client = MlflowClient(place)
    experiment = client.get_experiment_by_name("areal")
    [found] = client.search_runs([experiment.experiment_id])
    known = (run / "trackers" / "mlflow").read_text()
    assert (found.info.run_id, found.info.run_name, found.info.status) == (known, "r", "FINISHED")
    history = client.get_metric_history(known, "reward/mean")
    assert {(m.step, m.value) for m in history} == {*ONCE.items(), *AFTER.items()}, "MLflow keeps both"
    assert {(m.step, m.value) for m in client.get_metric_history(known, "eval/math-v1/avg_8")} == {(2, 0.25)}
    assert found.data.params["steps"] == "1234"
    assert found.data.params["env_options.a b.c"] == "5"
    assert found.data.params["learner.grad_clip"] == "1.0"
    folder = Path(client.download_artifacts(known, "", str(tmp_path)))
    assert json.loads((folder / "rollouts" / "step-000001.json").read_text()) == [ROLLOUT]
    assert json.loads((folder / "config.json").read_text())["steps"] == 1234


READ_TRACKIO = """
import json
import trackio
from trackio.sqlite_storage import SQLiteStorage
[run] = trackio.Api().runs("areal")
print(json.dumps([run.name, run.config, SQLiteStorage.get_logs("areal", run.name)]))
"""


def test_trackio(tmp_path: Path):
    run, said = tracked("trackio", tmp_path)
    assert said == [f"trackio: {tmp_path}/trackio (`trackio show --project areal` shows it)"] * 2
    read = subprocess.run(
        [sys.executable, "-c", READ_TRACKIO],
        env={**os.environ, **environment(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    name, config, rows = json.loads(read.stdout.splitlines()[-1])
    assert name == "r" == (run / "trackers" / "trackio").read_text()
    assert config["steps"] == 1234
    found = [(row["step"], row["reward/mean"]) for row in rows if "reward/mean" in row]
    assert found == [*ONCE.items(), *AFTER.items()], "trackio keeps both"
    assert [row["step"] for row in rows if row.get("eval/math-v1/avg@8") == 0.25] == [2, 2]
    [(step, table)] = ((row["step"], row["rollouts"]["_value"]) for row in rows if "rollouts" in row)
    assert (step, table) == (1, [ROLLOUT])


def test_swanlab(tmp_path: Path):
    run, said = tracked("swanlab", tmp_path)
    from swanlab.proto.swanlab.record.v1.record_pb2 import Record
    from swanlab.sdk.internal.core_python.store import DataStoreReader

    assert said == [f"swanlab: {run}/swanlab"] * 2
    known = (run / "trackers" / "swanlab").read_text()
    files = sorted(run.glob("swanlab/run-*/*.swanlab"), key=lambda path: path.stat().st_mtime_ns)
    for path, expected in zip(files, (ONCE, AFTER), strict=True):
        reader = DataStoreReader()
        reader.open(path)
        records = [Record.FromString(data) for data in reader]
        [start] = (record.start for record in records if record.HasField("start"))
        assert (start.id, start.project, start.name) == (known, "areal", "r"), "one run for SwanLab"
        scalars = [record.scalar for record in records if record.HasField("scalar")]
        assert {s.step: s.value.number for s in scalars if s.key == "reward/mean"} == expected
        assert [(s.step, s.value.number) for s in scalars if s.key == "eval/math-v1/avg@8"] == [(2, 0.25)]
        config = yaml.safe_load((path.parent / "files" / "config.yaml").read_text())
        assert config["steps"]["value"] == 1234
    [text] = run.glob("swanlab/*/media/text/*.txt")
    assert "# <b>42</b>" in text.read_text()


class Fake:
    """A tracker that a test takes calls from; ``work`` is done first in each, given its name."""

    link, every = "somewhere", 10

    def __init__(self, work: Callable[[str], Any] = lambda call: None) -> None:
        self.work = work
        self.calls: list[tuple[Any, ...]] = []

    def start(self, config: dict[str, Any], run_id: str | None, version: int) -> str:
        self.take("start", run_id, version)
        return run_id or "id"

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self.take("log", step, metrics)

    def rollouts(self, consumed: Consumed) -> None:
        self.take("rollouts", consumed.step, consumed.sample())

    def finish(self, succeeded: bool) -> None:
        self.take("finish", succeeded)

    def take(self, call: str, *given: Any) -> None:
        self.work(call)
        self.calls.append((call, *given))


class Tracked:
    """The trackers of a run, which are fakes, and all that was said."""

    def __init__(self, folder: Path, queue: int = 100, **fakes: Fake) -> None:
        self.said: list[str] = []
        self.warned: list[str] = []
        self.trackers = Trackers(
            folder, self.said.append, self.warned.append, lambda name, _: fakes[name], queue
        )
        self.trackers.start(settings(*fakes), 0)

    async def end(self, patience: float = SOON) -> None:
        await self.trackers.close(True, patience)


def settings(*names: str) -> Config:
    return parse_config({"trackers": list(names)})


async def test_what_a_tracker_is_given(tmp_path: Path):
    fake = Fake()
    run = Tracked(tmp_path, wandb=fake)
    for step in range(1, 12):
        run.trackers.log({"step": step, "reward/mean": 0.5, "none": None, "word": "x"})
        run.trackers.rollouts(consumed(step))
    await run.end()
    assert (run.said, run.warned) == (["wandb: somewhere"], [])
    assert fake.calls[0] == ("start", None, 0)
    assert fake.calls[-1] == ("finish", True)
    logs = [call for call in fake.calls if call[0] == "log"]
    assert logs == [("log", step, {"reward/mean": 0.5}) for step in range(1, 12)]
    assert [call for call in fake.calls if call[0] == "rollouts"] == [
        ("rollouts", 1, [ROLLOUT]),
        ("rollouts", 11, [{**ROLLOUT, "update": 11}]),
    ]


async def test_a_resumed_run_is_the_same_for_its_tracker(tmp_path: Path):
    await Tracked(tmp_path, wandb=Fake()).end()
    fake = Fake()
    await Tracked(tmp_path, wandb=fake).end()
    assert fake.calls[0] == ("start", "id", 0)


@pytest.mark.parametrize("failing", ["start", "log", "finish"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), SystemExit("gone")])
async def test_a_tracker_that_fails_is_left_out_and_the_run_goes_on(
    tmp_path: Path, failing: str, error: BaseException
):
    def fail(call: str) -> None:
        if call == failing:
            raise error

    bad, good = Fake(fail), Fake()
    run = Tracked(tmp_path, wandb=bad, mlflow=good)
    for step in range(1, 6):
        run.trackers.log({"step": step})
    await run.end()
    [line] = run.warned
    assert line.startswith(f"wandb failed, and the run continues without it: {type(error).__name__}: ")
    assert "\n" not in line
    assert {call[0] for call in bad.calls} == {
        "start": set(),
        "log": {"start"},
        "finish": {"start", "log"},
    }[failing]
    assert [call[0] for call in good.calls] == ["start", *["log"] * 5, "finish"]


async def test_a_warning_has_no_password(tmp_path: Path):
    def fail(call: str) -> None:
        raise OSError("cannot reach https://me:secret@host/api?x=a@b")

    run = Tracked(tmp_path, mlflow=Fake(fail))
    await run.end()
    assert "cannot reach https://host/api?x=a@b" in run.warned[0]


async def test_what_a_tracker_is_too_slow_for_is_dropped(tmp_path: Path):
    going_on = threading.Event()
    fake = Fake(lambda call: going_on.wait(SOON))
    run = Tracked(tmp_path, queue=4, wandb=fake)
    for step in range(1, 50):
        run.trackers.log({"step": step})
    assert run.warned == ["wandb is too slow to receive the whole run; metrics.jsonl has all of it"]
    going_on.set()
    await run.end()
    assert [call[:2] for call in fake.calls] == [
        ("start", None), ("log", 1), ("log", 2), ("log", 3), ("finish", True)
    ]  # fmt: skip
    assert len(run.warned) == 1


async def test_few_batches_wait_for_a_tracker(tmp_path: Path):
    """A batch has millions of tokens, and a queue of calls would keep hundreds of them."""
    going_on = threading.Event()
    fake = Fake(lambda call: going_on.wait(SOON))
    fake.every = 1
    run = Tracked(tmp_path, wandb=fake)
    for step in range(1, 50):
        run.trackers.rollouts(consumed(step))
    run.trackers.log({"step": 49})
    assert run.warned == ["wandb is too slow to receive the whole run; metrics.jsonl has all of it"]
    going_on.set()
    await run.end()
    assert [call[1] for call in fake.calls if call[0] == "rollouts"] == [1, 2, 3, 4, 5, 6, 7, 8]
    assert fake.calls[-2][:2] == ("log", 49)


@pytest.mark.parametrize("hanging", ["start", "log", "finish"])
async def test_a_tracker_that_hangs_does_not_keep_the_run(tmp_path: Path, hanging: str):
    going_on = threading.Event()
    bad, good = Fake(lambda call: call == hanging and going_on.wait()), Fake()
    run = Tracked(tmp_path, wandb=bad, mlflow=good)
    run.trackers.log({"step": 1})
    try:
        async with asyncio.timeout(SOON):
            await run.end(patience=0.5)
        assert run.warned == [
            "wandb has not received the whole run in time, and the run ends without it; metrics.jsonl has "
            "all of it"
        ]
        assert good.calls[-1] == ("finish", True)
    finally:
        going_on.set()


HANGING = """
import asyncio, atexit, pathlib, threading
from areal.config import parse_config
from areal.telemetry.trackers.tracking import Trackers

class Hanging:
    link = ""
    def wait(self, *given):
        threading.Event().wait()
    def start(self, config, run_id, version):
        atexit.register(print, "others are called")
        atexit.register(self.wait)
        return ""
    finish = wait

Hanging.wait.__module__ = "wandb.sdk"

async def run():
    trackers = Trackers(pathlib.Path(), print, print, lambda name, directory: Hanging())
    trackers.start(parse_config({"trackers": "wandb"}), 0)
    await trackers.close(True, patience=1)

asyncio.run(run())
"""


def test_a_tracker_that_hangs_does_not_keep_the_process(tmp_path: Path):
    command = [sys.executable, "-c", HANGING]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=SOON)
    assert ran.returncode == 0, ran.stderr
    assert "the run ends without it" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "others are called"


async def test_who_asks_twice_to_stop_does_not_wait(tmp_path: Path):
    going_on = threading.Event()
    run = Tracked(tmp_path, wandb=Fake(lambda call: going_on.wait()))
    ending = asyncio.create_task(run.end())
    await asyncio.sleep(0)
    ending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await ending
    going_on.set()


def test_a_tracker_that_is_not_installed_is_refused(tmp_path: Path):
    with pytest.raises(UserError) as refused:
        require_trackers(["swanlab"], lambda name: None)
    assert str(refused.value) == (
        "trackers=swanlab requires the package swanlab; install it with pip install 'areal-gym[swanlab]'"
    )
    (tmp_path / "wandb").mkdir()
    with pytest.raises(UserError):  # what W&B leaves where it was started is no package
        require_trackers(["wandb"], lambda name: PathFinder.find_spec(name, [str(tmp_path)]))


def test_opentelemetry_without_its_exporter_is_refused():
    """Others bring the package along, without what sends."""

    def find(name: str) -> None:
        assert name == "opentelemetry.exporter.otlp.proto.http"
        raise ModuleNotFoundError("No module named 'opentelemetry.exporter'", name="opentelemetry.exporter")

    with pytest.raises(UserError, match=r"pip install 'areal-gym\[opentelemetry\]'"):
        require_trackers(["opentelemetry"], find)


@pytest.mark.parametrize("options", [[], ["--dry-run"]])
def test_it_is_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], options: list[str]
):
    monkeypatch.setitem(sys.modules, "swanlab", None)
    with pytest.raises(SystemExit) as ended:
        main(["train", "trackers=swanlab", *options])
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.endswith("pip install 'areal-gym[swanlab]'")


def test_names_of_trackers():
    assert settings("wandb").trackers == parse_config({"trackers": "wandb"}).trackers == ("wandb",)
    with pytest.raises(UserError, match=r"trackers\.0='wanb' must be 'tensorboard', .*did you mean 'wandb'"):
        settings("wanb")


def test_no_tracker_is_imported_unasked():
    code = "import sys, areal.runtime.run; print([m for m in sys.argv[1:] if m in sys.modules])"
    names = ["tensorboard", "wandb", "mlflow", "trackio", "swanlab", "opentelemetry"]
    ran = subprocess.run([sys.executable, "-c", code, *names], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
