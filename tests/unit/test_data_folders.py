"""Folders and splits of data: which there are, what is held out, and when they are read again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from data_rows import CSV, LINES, MANY, SYSTEM, USER, VERL, as_parquet, jsonl
from pyarrow import ipc, parquet

from areal.envs.data import load_pairs
from areal.envs.rows import read_rows
from areal.errors import UserError
from areal.evaluation.benchmark import Benchmark
from areal.evaluation.benchmark_data import find_data
from areal.registry import make_env


def saved(folder: Path, rows: list[dict[str, Any]], shards: int = 2) -> None:
    """Write a split as ``datasets.Dataset.save_to_disk`` does."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05}-of-{shards:05}.arrow" for i in range(shards)]
    for i, name in enumerate(names):
        table = pyarrow.Table.from_pylist(rows[i::shards])
        with pyarrow.OSFile(str(folder / name), "wb") as file, ipc.new_stream(file, table.schema) as writer:
            writer.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")


def sizes(data: str, **options: Any) -> tuple[int, int]:
    env = make_env("math-v1", data=data, **options).unwrapped
    return env.count("train"), env.count("test")


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    shards = tmp_path / "hub" / "data"
    shards.mkdir(parents=True)
    for name, part in (
        ("train-00000-of-00002", MANY[:10]),
        ("train-00001-of-00002", MANY[10:20]),
        ("test-00000-of-00001", MANY[20:25]),
        ("hard-00000-of-00001", MANY[25:]),
    ):
        parquet.write_table(pyarrow.Table.from_pylist(part), shards / f"{name}.parquet")
    (tmp_path / "hub" / "README.md").write_text("a card")
    for place in ("hub", "./hub", str(tmp_path / "hub"), "hub/"):
        assert sizes(place) == (20, 5)
    assert sizes("./hub:hard", test_data="hub:test") == (5, 5)
    with pytest.raises(UserError, match="hub has no split 'tets'; did you mean 'test'"):
        sizes("hub:tets")

    saved(tmp_path / "one", MANY)
    assert sum(sizes("./one")) == 30
    saved(tmp_path / "two" / "train", MANY[:20])
    saved(tmp_path / "two" / "validation", MANY[20:])
    (tmp_path / "two" / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    assert sizes("two") == (20, 10)
    assert sum(sizes("two:validation")) == 10

    (tmp_path / "sets" / "main").mkdir(parents=True)
    (tmp_path / "sets" / "socratic").mkdir()
    for name in ("main", "socratic"):
        as_parquet(tmp_path / "sets" / name / "train-00000-of-00001.parquet")
    assert sum(sizes("sets", subset="main")) == 30
    with pytest.raises(UserError, match="several data sets; choose one, as in subset=main"):
        sizes("sets")
    with pytest.raises(UserError, match="no subfolder 'mian'; did you mean 'main'"):
        sizes("sets", subset="mian")


def test_folders_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty has no data"):
        sizes("empty")
    (tmp_path / "both").mkdir()
    as_parquet(tmp_path / "both" / "train.parquet")
    (tmp_path / "both" / "train.jsonl").write_text(LINES)
    with pytest.raises(UserError, match=r"several formats .\.jsonl, \.parquet"):
        sizes("./both")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "a-00000-of-00001.jsonl").write_text(LINES)
    (tmp_path / "odd" / "b-00000-of-00001.jsonl").write_text(LINES)
    with pytest.raises(UserError, match="has no split train; name another one, as in data=odd:a"):
        sizes("odd")
    for place in ("./empt", "empt.jsonl", "/nowhere/at/all", "a/b/c", "~/nothing.parquet"):
        with pytest.raises(UserError, match="does not exist"):
            sizes(place)
    (tmp_path / "problems.jsonl").write_text(LINES)
    with pytest.raises(UserError, match="does not exist; did you mean 'problems\\.jsonl'"):
        sizes("problem.jsonl")


@pytest.mark.parametrize(
    ("place", "count"),
    [
        ("rows.jsonl[:7]", 7),
        ("rows.jsonl[:700]", 30),
        ("folder:train[:5]", 5),
        ("folder[:4]", 5),  # of each split
        ("odd[:2].jsonl", 3),  # a name that is there as it is written
        ("odd[:2].jsonl[:1]", 1),
    ],
)
def test_the_first_rows_alone(place: str, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    jsonl(tmp_path / "rows.jsonl", *MANY)
    jsonl(tmp_path / "folder" / "train.jsonl", *MANY[:20])
    jsonl(tmp_path / "folder" / "test.jsonl", MANY[29])
    jsonl(tmp_path / "odd[:2].jsonl", *MANY[:3])
    jsonl(tmp_path / "below" / "rows.jsonl", *MANY[:3])
    (tmp_path / "below" / "some.yaml").write_text("data: 'rows.jsonl[:2]'\n")
    assert sum(sizes(place)) == count
    assert sum(sizes(str(tmp_path / place))) == count
    made = make_env("below/some.yaml").unwrapped
    assert made.count("train") + made.count("test") == 2, "of the file beside it"
    with pytest.raises(UserError, match=r"rows\.json does not exist; did you mean 'rows\.jsonl'"):
        sizes("rows.json[:7]")


@pytest.mark.parametrize("place", ["d.jsonl", "folder", "folder:train", "folder[:9]"])
@pytest.mark.parametrize("env", ["math-v1", "data-v1", "code-v1"])
def test_a_file_that_was_changed_is_read_again(env: str, place: str, tmp_path: Path):
    path = tmp_path / place if place == "d.jsonl" else tmp_path / "folder" / "train.jsonl"
    path.parent.mkdir(exist_ok=True)
    test = {"tests": ["assert f() == 1"]} if env == "code-v1" else {"answer": "1"}
    for count in (3, 4):
        jsonl(path, *({"problem": f"{i}?", **test} for i in range(count)))
        made = make_env(env, data=f"{tmp_path}/{place}").unwrapped
        assert made.count("train") + made.count("test") == count
        again = make_env(env, data=f"{tmp_path}/{place}").unwrapped
        assert again._problems is made._problems, "what has not changed is read once"


def test_a_folder_or_a_split_as_a_benchmark(tmp_path: Path):
    benchmark = Benchmark("mine", env="math-v1", source="nowhere.jsonl", problems=30, prompt="{problem}")
    saved(tmp_path / "kept" / "train", MANY[:20])
    saved(tmp_path / "kept" / "test", MANY[20:])
    (tmp_path / "kept" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for place, count in ((tmp_path / "kept", 10), (f"{tmp_path}/kept:train", 20)):
        assert len(list(read_rows(find_data(benchmark, place, tmp_path / "written").path))) == count
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "mine.csv").write_text(CSV)
    assert len(list(read_rows(find_data(benchmark, tmp_path / "all", tmp_path / "written").path))) == 30


@pytest.mark.parametrize("count", [2, 3, 9, 10, 11, 40])
def test_something_is_held_out_and_something_left(count: int, tmp_path: Path):
    rows = [{"problem": f"{i}?", "answer": "1"} for i in range(count)]
    train, test = sizes(jsonl(tmp_path / "d.jsonl", *rows))
    assert train + test == count
    assert train
    assert test
    assert sizes(jsonl(tmp_path / "turned.jsonl", *rows[::-1])) == (train, test)


def test_one_problem_is_to_train_on(tmp_path: Path):
    for i in range(30):  # also where its hash would hold it out
        assert sizes(jsonl(tmp_path / f"{i}.jsonl", {"problem": f"{i}?", "answer": "1"})) == (1, 0)


def test_how_it_was_read_and_what_may_be_wrong(tmp_path: Path):
    splits = load_pairs(jsonl(tmp_path / "d.jsonl", *([VERL] * 40), *MANY), None, None)
    assert splits.notices == (
        f"{tmp_path}/d.jsonl: read as verl rows (40), rows of problem and answer (30): "
        f"{len(splits['train'])} training problems, {len(splits['test'])} held out "
        "(one in ten, by a hash of their text)",
    )
    again = f"39 of the {len(splits['train'])} training problems are duplicates; remove them"
    assert splits.warnings == (again,)
    some = jsonl(tmp_path / "some.jsonl", *MANY[:5])
    leaking = load_pairs(jsonl(tmp_path / "all.jsonl", *MANY), None, some)
    assert len(leaking.warnings) == 1
    assert leaking.warnings[0].startswith("5 of the 5 held-out problems are also training problems")
    # Near misses: the same question after another opening, and a few that repeat.
    other = {**VERL, "prompt": [SYSTEM, USER]}
    fine = load_pairs(jsonl(tmp_path / "e.jsonl", VERL, *MANY), None, jsonl(tmp_path / "f.jsonl", other))
    assert fine.warnings == ()
    assert load_pairs(jsonl(tmp_path / "g.jsonl", *MANY, MANY[0]), None, None).warnings == ()
