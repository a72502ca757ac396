"""A run's folder: never shared, never half written, and clear about a disk that cannot take it."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from areal.config import Config, load_config
from areal.errors import UserError
from areal.telemetry.run_directory import CONFIG, RunDirectory, json_line, read_metrics


def config(output: Path, **settings) -> Config:
    return Config(output=output, **settings)


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory.create(config(tmp_path / "runs", name="it"))


def refused(call) -> str:
    with pytest.raises(UserError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_name_says_what_runs(tmp_path):
    path = RunDirectory.create(config(tmp_path, env="math-v1", model="Qwen/Qwen3-0.6B")).path
    assert path.parent == tmp_path
    assert re.fullmatch(r"math-v1-Qwen3-0.6B-\d{8}-\d{6}", path.name)


@pytest.mark.parametrize(("env", "model"), [("a/b c-v1", "/x y/..:z/"), ("-v1", "."), ("ü" * 300, "m" * 300)])
def test_name_is_a_safe_file_name(tmp_path, env, model):
    name = RunDirectory.create(config(tmp_path, env=env, model=model)).path.name
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}", name)


def test_configuration_reads_back(tmp_path):
    wanted = config(tmp_path, steps=7, rollout={"max_staleness": math.inf})
    assert load_config(RunDirectory.create(wanted).path / "config.yaml") == wanted


def test_runs_that_start_at_once_get_folders_of_their_own(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        made = list(
            pool.map(lambda _: RunDirectory.create(config(tmp_path / "new" / "runs")).path, range(32))
        )
    assert len(set(made)) == 32
    seconds = Counter(re.match(r"math-v1-starter-\d{8}-\d{6}", path.name)[0] for path in made)
    assert {path.name for path in made} == {
        stem if number == 1 else f"{stem}-{number}"
        for stem, count in seconds.items()
        for number in range(1, count + 1)
    }
    assert all((path / "config.yaml").is_file() for path in made)
    assert (tmp_path / "new" / "runs" / "latest").resolve() in made


def test_given_name_is_never_written_over(tmp_path):
    first = RunDirectory.create(config(tmp_path, name="mine"))
    before = (first.path / "config.yaml").read_text()
    message = refused(lambda: RunDirectory.create(config(tmp_path, name="mine", steps=9)))
    assert "another name" in message
    assert f"--resume {first.path}" in message
    assert (first.path / "config.yaml").read_text() == before


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/abs", "latest", "nul\0"])
def test_given_name_stays_in_the_output_folder(tmp_path, name):
    assert "name" in refused(lambda: RunDirectory.create(config(tmp_path, name=name)))
    assert list(tmp_path.iterdir()) == []


def test_latest_follows_the_newest_run(tmp_path):
    for name in ("one", "two"):
        RunDirectory.create(config(tmp_path, name=name))
        assert (tmp_path / "latest").readlink() == Path(name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "one", "two"]
    assert RunDirectory.open(tmp_path / "latest").path == (tmp_path / "two").resolve()


def test_latest_replaces_a_dangling_link(tmp_path):
    (tmp_path / "latest").symlink_to("gone")
    RunDirectory.create(config(tmp_path, name="one"))
    assert (tmp_path / "latest").readlink() == Path("one")


@pytest.mark.parametrize("make", [Path.mkdir, Path.touch])
def test_latest_leaves_a_persons_own_alone(tmp_path, make):
    make(tmp_path / "latest")
    RunDirectory.create(config(tmp_path, name="one"))
    assert not (tmp_path / "latest").is_symlink()


def test_opened_run_stays_the_same_when_latest_moves_on(tmp_path):
    RunDirectory.create(config(tmp_path, name="one"))
    opened = RunDirectory.open(tmp_path / "latest")
    RunDirectory.create(config(tmp_path, name="two"))
    assert opened.path.name == "one"


def test_a_path_stays_as_relative_as_it_was_given(tmp_path, monkeypatch):
    made = RunDirectory.create(config(tmp_path / "runs", name="a"))
    monkeypatch.chdir(tmp_path)
    assert RunDirectory.open("runs/latest").path == Path("runs/a")
    assert RunDirectory.open(tmp_path / "runs/latest").path == made.path
    monkeypatch.chdir(tmp_path / "runs" / "a")
    assert RunDirectory.open(".").path == Path()
    RunDirectory.create(config(tmp_path / "runs", name="b"))
    assert RunDirectory.open("../a").path == Path()
    assert RunDirectory.open("../latest").path == tmp_path / "runs" / "b"


def test_a_folder_that_others_have_made_anew_is_not_the_runs(run):
    """As a library does that writes a file below one that was removed."""
    shutil.rmtree(run.path)
    (run.path / "checkpoints").mkdir(parents=True)
    writes = (
        lambda: run.log_metrics({"step": 1}),
        lambda: run.log_event("lost"),
        lambda: run.log_rollouts(1, []),
        run.starts,
    )
    for write in writes:
        assert (
            refused(write)
            == f"{run.path} no longer exists: it was removed or moved while the run was writing to it"
        )
    assert [path.name for path in run.path.iterdir()] == ["checkpoints"]


def test_open_refuses_what_is_no_run(tmp_path):
    folder = tmp_path / "folder"  # it has no run beside it that it may mean
    folder.mkdir()
    no_run = f"{folder} is not a run directory: it has no config.yaml; nor a file"
    assert refused(lambda: RunDirectory.open(folder, "; nor a file")) == no_run
    (tmp_path / "latest").symlink_to("gone")
    for name in ("missing", "latest"):
        said = refused(lambda name=name: RunDirectory.open(tmp_path / name, "; nor a file"))
        assert said == f"{tmp_path / name} does not exist; `areal runs` lists the runs in the folder runs"


def test_output_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file" / "below"):
        assert "output=" in refused(lambda output=output: RunDirectory.create(config(output)))


def test_output_that_takes_no_folder():
    assert "cannot write to output=/proc/x" in refused(lambda: RunDirectory.create(config(Path("/proc/x"))))


def test_full_disk_at_the_start_leaves_nothing(tmp_path, monkeypatch):
    def write(path, text, encoding):
        with open("/dev/full", "w") as file:
            file.write(text)

    monkeypatch.setattr(Path, "write_text", write)
    message = refused(lambda: RunDirectory.create(config(tmp_path, name="x")))
    assert "No space left" in message
    assert list(tmp_path.iterdir()) == []


def test_metrics_read_back(run):
    lines = [{"step": 0, "eval/math-v1/avg@1": 0.25}, {"step": 1, "reward/mean": 0.1 + 0.2}]
    assert read_metrics(run.path) == []
    for line in lines:
        run.log_metrics(line)
    assert read_metrics(run.path) == lines


def test_every_line_is_json_that_others_can_read(run):
    run.log_metrics({"step": 1, "a": math.nan, "b": [math.inf, {"c": -math.inf}], "d": True})
    run.log_metrics({"step": np.int64(2), "x": np.float32(0.5), "y": np.float64("nan")})

    def no_constants(text):
        raise AssertionError(text)

    text = (run.path / "metrics.jsonl").read_text()
    read = [json.loads(line, parse_constant=no_constants) for line in text.splitlines()]
    assert read == [
        {"step": 1, "a": None, "b": [None, {"c": None}], "d": True},
        {"step": 2, "x": 0.5, "y": None},
    ]


def test_torn_last_line_is_left_out(run):
    run.log_metrics({"step": 1})
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 2, "na\xc3')
    assert read_metrics(run.path) == [{"step": 1}]
    run.truncate_metrics(5)
    run.log_metrics({"step": 2})
    assert read_metrics(run.path) == [{"step": 1}, {"step": 2}]


def test_rollouts_one_line_a_group(run):
    groups = [{"id": 0, "trajectories": [{"reward": math.nan}]}, {"id": 1, "trajectories": []}]
    run.log_rollouts(3, map(json_line, groups))
    [file] = (run.path / "rollouts").iterdir()
    assert file.name == "step-000003.jsonl"
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == [0, 1]


def test_truncation_keeps_the_checkpoint_and_its_evaluation(run):
    for step in range(1, 7):
        run.log_metrics({"step": step, "reward/mean": step / 10})
        run.log_rollouts(step, map(json_line, [{"id": step}]))
        run.log_token_values(step, map(json_line, [{"group": step}]))
        if step % 2 == 0:
            run.log_metrics({"step": step, "eval/e/avg@1": 0.5})
    run.truncate_metrics(4 + 1)
    assert [line["step"] for line in read_metrics(run.path)] == [1, 2, 2, 3, 4, 4]
    for folder in ("rollouts", "tokens"):
        assert sorted(int(file.stem[5:]) for file in (run.path / folder).iterdir()) == [1, 2, 3, 4]
    assert run.read_token_values(4) == [{"group": 4}]
    assert run.read_token_values(5) == []
    run.truncate_metrics(0)
    assert read_metrics(run.path) == []


def test_a_run_that_goes_on_forgets_what_comes_later_and_keeps_its_past(run):
    for step in (0, 2, 4):
        run.write_report(step, {"accuracy": step / 4})
        run.log_metrics({"step": step})
    run.go_on(config(run.path.parent, steps=7), 2)
    assert [line["step"] for line in read_metrics(run.path)] == [0, 2]
    assert [run.read_report(step) for step in (0, 2, 4)] == [{"accuracy": 0.0}, {"accuracy": 0.5}, None]
    assert load_config(run.path / "config.yaml").steps == 7


def test_a_run_that_cannot_go_on_stays_as_it_was(run):
    for step in (1, 2, 3):
        run.log_metrics({"step": step})
        run.log_rollouts(step, map(json_line, [{"id": step}]))
    before = {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()}
    (run.path / ".metrics.jsonl.partial").symlink_to("/dev/full")
    assert "no space left" in refused(lambda: run.go_on(config(run.path.parent, steps=7), 1))
    assert {file: file.read_bytes() for file in run.path.rglob("*") if file.is_file()} == before


def test_truncation_of_a_run_that_wrote_nothing(run):
    run.truncate_metrics(1)
    assert read_metrics(run.path) == []


def test_full_disk_while_logging_metrics(run):
    (run.path / "metrics.jsonl").symlink_to("/dev/full")
    message = refused(lambda: run.log_metrics({"step": 1}))
    assert message == f"no space left in {run.path}; free some space"


def test_full_disk_while_logging_rollouts_leaves_no_part(run):
    (run.path / "rollouts").mkdir()
    (run.path / "rollouts" / ".step-000001.jsonl.partial").symlink_to("/dev/full")
    assert "no space left" in refused(lambda: run.log_rollouts(1, map(json_line, [{"id": 0}])))
    assert list((run.path / "rollouts").iterdir()) == []


def test_full_disk_while_truncating_loses_nothing(run):
    for step in (1, 2, 3):
        run.log_metrics({"step": step})
    (run.path / ".metrics.jsonl.partial").symlink_to("/dev/full")
    assert "no space left" in refused(lambda: run.truncate_metrics(2))
    assert [line["step"] for line in read_metrics(run.path)] == [1, 2, 3]


def test_other_errors_are_not_called_a_full_disk(run):
    (run.path / "metrics.jsonl").mkdir()
    with pytest.raises(IsADirectoryError):
        run.log_metrics({"step": 1})


def test_a_run_directory_that_vanishes_is_one_line(run):
    shutil.rmtree(run.path)
    for write in (
        lambda: run.log_metrics({"step": 1}),
        lambda: run.log_rollouts(1, map(json_line, [{"id": 0}])),
        lambda: run.write_report(1, {}),
        lambda: run.log_start({"step": 1}),
        lambda: run.read_rollouts(1),
        run.starts,
    ):
        assert (
            refused(write)
            == f"{run.path} no longer exists: it was removed or moved while the run was writing to it"
        )
    assert not run.path.exists(), "nothing makes half of it anew"


def test_a_name_that_no_run_has_is_answered_with_a_near_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for name in ("maths", "code"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / CONFIG).touch()

    def said(path: str) -> str:
        with pytest.raises(UserError) as refused:
            RunDirectory.open(path, "; nor")
        return str(refused.value)

    assert said("maths") == "maths does not exist; did you mean 'runs/maths'?"  # as `areal runs` shows it
    assert said("runs/math").endswith("did you mean 'runs/maths'?")
    assert said(str(tmp_path / "runs" / "cod")).endswith(f"did you mean '{tmp_path}/runs/code'?")
    assert "mean" not in said("elsewhere")
    assert "mean" not in said("runs/eval"), "what the folder adds to both does not make them alike"
