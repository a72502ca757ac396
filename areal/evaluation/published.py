"""Converts the rows that benchmarks publish to rows with ``problem`` or ``messages`` and ``answer``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from areal.errors import UserError

Row = dict[str, Any]

_RELEASES = {
    "test.jsonl": "2024-03",
    "test2.jsonl": "2024-05",
    "test3.jsonl": "2024-07",
    "test4.jsonl": "2024-09",
    "test5.jsonl": "2025-01",
    "test6.jsonl": "2025-04",
}
"""The files of LiveCodeBench, with the last month of the problems in each release."""

_BFCL_JUDGED = (
    "simple",
    "multiple",
    "parallel",
    "parallel_multiple",
    "live_simple",
    "live_multiple",
    "live_parallel",
    "live_parallel_multiple",
)
_BFCL_RELEVANCE = {"irrelevance": "none", "live_irrelevance": "none", "live_relevance": "some"}
"""Categories without answers; they only test whether the response has a call."""
BFCL_FILES = tuple(
    f"{folder}BFCL_v3_{category}.json"
    for folder, categories in (("", (*_BFCL_JUDGED, *_BFCL_RELEVANCE)), ("possible_answer/", _BFCL_JUDGED))
    for category in categories
)
_BFCL_SYSTEM = """You answer by calling functions. These can be called; each is described in JSON:
{functions}
Write nothing but the calls, as Python, with the name of every argument:
[first_function(argument=value, other=value), second_function(argument=value)]
If none of the functions serves the purpose, or an argument that one needs is not known, say so in words."""


def livecodebench_files(part: str) -> tuple[str, ...]:
    """Return the files that may contain problems of a period, such as ``2024-10..2025-01``."""
    first = part.partition("..")[0]
    return tuple(file for file, last in _RELEASES.items() if last >= first[: len(last)])


def bbh(rows: Iterable[Row]) -> Iterator[Row]:
    """Add the task to each row: the folder of its file."""
    for row in rows:
        task = row.get("task") or row.get("file", "").rpartition("/")[0]
        yield {"task": task, "problem": row["input"], "answer": row["target"].strip()}


def zebralogic(rows: Iterable[Row]) -> Iterator[Row]:
    """Ask for the solution as JSON, with an object for each house."""
    for row in rows:
        _, *named = row["solution"]["header"]
        houses = {f"House {number}": cells for number, *cells in row["solution"]["rows"]}
        form = json.dumps({house: dict.fromkeys(named, "...") for house in houses})
        answer = {house: dict(zip(named, cells, strict=True)) for house, cells in houses.items()}
        asked = f"{row['puzzle'].strip()}\n\nReason step by step, and end with JSON of this form:\n{form}"
        yield {"id": row["id"], "size": row["size"], "problem": asked, "answer": json.dumps(answer)}


def ifeval(rows: Iterable[Row]) -> Iterator[Row]:
    """Put the instructions to check into the answer."""
    for row in rows:
        checked = {name: row[name] for name in ("prompt", "instruction_id_list", "kwargs")}
        yield {"key": row["key"], "problem": row["prompt"], "answer": json.dumps(checked)}


def bfcl(rows: Iterable[Row]) -> Iterator[Row]:
    """Join the questions with their answers, and describe the functions in a system message."""
    kept = list(rows)
    answers = {row["id"]: row["ground_truth"] for row in kept if "ground_truth" in row}
    for row in kept:
        if "ground_truth" in row:
            continue
        category = row["id"].rpartition("_")[0]
        calls = _BFCL_RELEVANCE.get(category) or answers.get(row["id"])
        if calls is None:
            raise UserError(f"benchmark 'bfcl': no file in possible_answer has the answer to {row['id']}")
        functions = [_described(function) for function in row["function"]]
        described = "\n".join(json.dumps(function, ensure_ascii=False) for function in functions)
        said = [message for message in row["question"][0] if message["role"] != "system"]
        own = [message["content"] for message in row["question"][0] if message["role"] == "system"]
        system = "\n\n".join([_BFCL_SYSTEM.format(functions=described), *own])
        yield {
            "category": category,
            "messages": [{"role": "system", "content": system}, *said],
            "answer": json.dumps({"functions": functions, "calls": calls}),
        }


def _described(function: Row) -> Row:
    held = function["parameters"]
    return {**function, "parameters": json.loads(held) if isinstance(held, str) else held}
