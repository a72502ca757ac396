"""Tables as other programs write them, and fields that change what a row means."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

from areal.envs.data import load_pairs
from areal.errors import UserError

ROWS = [{"question": f"{n}+1?", "answer": str(n + 1)} for n in range(12)]
EXPECTED = {(row["question"], row["answer"]) for row in ROWS}
TABLES: dict[str, Any] = {
    "columns": {key: [row[key] for row in ROWS] for key in ("question", "answer")},
    "numbered columns": {key: {str(i): row[key] for i, row in enumerate(ROWS)} for key in ROWS[0]},
    "numbered rows": {str(i): row for i, row in enumerate(ROWS)},
    "rows under a name": {"version": "1.0", "data": ROWS},
}


def read(path: Path) -> set[tuple[str, str]]:
    loaded = load_pairs(str(path), None, None)
    return {(pair.problem, pair.answer) for split in loaded.values() for pair in split}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("form", TABLES)
def test_one_object_that_is_a_table(form: str, indent: int | None, tmp_path: Path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(TABLES[form], indent=indent))
    assert read(path) == EXPECTED


@pytest.mark.parametrize(
    "row",
    [
        {"question": "1+1?", "answer": "2", "steps": [{"say": "add"}]},
        {"question": "1+1?", "answer": "2", "data": [{"a": 1}], "rows": [{"a": 1}]},
        {"prompt": [{"role": "user", "content": "1+1?"}], "answer": ["2"]},
        {"prompt": [{"role": "user", "content": "1+1?"}], "reward_model": {"ground_truth": "2"}},
    ],
)
def test_one_row_is_no_table(row: dict[str, Any], tmp_path: Path):
    path = tmp_path / "row.jsonl"
    path.write_text(json.dumps(row))
    assert read(path) == {("1+1?", "2")}


@pytest.mark.parametrize(
    ("row", "problem", "opening"),
    [
        ({"Problem": "1+1?", "Answer": 2}, "1+1?", ()),
        ({"Body": "One and one.", "Question": "How many?", "Answer": 2.0}, "One and one. How many?", ()),
        ({"system": "Be brief.", "prompt": "1+1?", "answer": "2"}, "1+1?", (("system", "Be brief."),)),
        ({"system_prompt": "", "question": "1+1?", "answer": "2"}, "1+1?", ()),
        (
            {
                "system": "No.",
                "prompt": [{"role": "system", "content": "Yes."}, {"role": "user", "content": "?"}],
            }
            | {"answer": "2"},
            "?",
            (("system", "Yes."),),
        ),
        (
            {"context": "There are two.", "question": "How many?", "answer": "2"},
            "There are two.\nHow many?",
            (),
        ),
        ({"passage": None, "context": " ", "question": "1+1?", "answer": "2"}, "1+1?", ()),
        ({"context": "1+1?", "instruction": "It is 1+1?", "output": "2"}, "It is 1+1?", ()),
        ({"context": {"title": ["a"]}, "question": "1+1?", "answer": "2"}, "1+1?", ()),
        ({"question": "1+1?", "answer": "One and one make two. The answer is 2"}, "1+1?", ()),
    ],
)
def test_fields_that_say_more(row: dict[str, Any], problem: str, opening: object, tmp_path: Path):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row))
    (pair,) = load_pairs(str(path), None, None)["train"]
    assert (pair.problem, pair.opening) == (problem, opening)
    assert float(pair.answer) == 2


def test_bytes_are_text(tmp_path: Path):
    table = pyarrow.table({"question": [b"q?", b"r?", "é?".encode()], "answer": [b"2", b"3", b"4"]})
    parquet.write_table(table, tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet") == {("q?", "2"), ("r?", "3"), ("é?", "4")}


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("rows.csv", "question,answer\nq?,1\nr?,NaN\n", "line 3: none of the keys"),
        ("rows.csv", "question,answer\nq?,nan\n", "line 2: none of the keys"),
        (
            "rows.jsonl",
            '{"problem": "<image>?", "images": ["a.png"], "answer": 1}',
            "line 1: it contains images",
        ),
    ],
)
def test_what_is_not_there_or_not_seen_is_refused(name: str, content: str, complaint: str, tmp_path: Path):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=complaint):
        load_pairs(str(tmp_path / name), None, None)
