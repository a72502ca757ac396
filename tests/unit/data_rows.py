"""Rows of data, in Python and as the text or the file that has them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

USER = {"role": "user", "content": "1+1?"}
SYSTEM = {"role": "system", "content": "Be brief."}
SHOTS = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
VERL = {
    "data_source": "math_dapo",
    "prompt": [USER],
    "ability": "MATH",
    "reward_model": {"ground_truth": "2", "style": "rule-lighteval/MATH_v2"},
    "extra_info": {"index": "9a9b"},
}

MANY = [{"problem": f"{i}\u2028{i}?", "answer": str(i), "n": i} for i in range(30)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in MANY)
TABLE = pyarrow.Table.from_pylist(MANY)
CSV = "problem,answer,n\n" + "".join(f'"{r["problem"]}",{r["answer"]},{r["n"]}\n' for r in MANY)


def jsonl(path: Path, *rows: Any) -> str:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def as_parquet(path: Path) -> None:
    parquet.write_table(TABLE, path, row_group_size=7)
