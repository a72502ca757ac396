"""Files of data: every form and packing is read, and what is refused is named with its line."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from data_rows import CSV, LINES, MANY, TABLE, as_parquet
from pyarrow import ipc

from areal.envs.rows import read_rows
from areal.errors import UserError
from areal.evaluation.benchmark import Benchmark
from areal.evaluation.benchmark_data import find_data
from areal.registry import make_env


def as_arrow(path: Path, new: Callable[..., Any] = ipc.new_file) -> None:
    with pyarrow.OSFile(str(path), "wb") as file, new(file, TABLE.schema) as writer:
        for batch in TABLE.to_batches(max_chunksize=7):
            writer.write_batch(batch)


def zstd(path: Path) -> None:
    with pyarrow.CompressedOutputStream(str(path), "zstd") as file:
        file.write(LINES.encode())


FILES: dict[str, Callable[[Path], Any]] = {
    "lines.jsonl": lambda p: p.write_text(LINES),
    "bom.jsonl": lambda p: p.write_text(LINES, encoding="utf-8-sig"),
    "crlf.jsonl": lambda p: p.write_bytes(LINES.replace("\n", "\r\n\r\n").encode()),
    "no_end.ndjson": lambda p: p.write_text(LINES.rstrip("\n")),
    "lines.json": lambda p: p.write_text(LINES),
    "array.json": lambda p: p.write_text(json.dumps(MANY)),
    "array.jsonl": lambda p: p.write_text(json.dumps(MANY, indent=1)),
    "bom_array.json": lambda p: p.write_text(json.dumps(MANY), encoding="utf-8-sig"),
    "within.json": lambda p: p.write_text(json.dumps({"version": 1, "data": MANY}, indent=2)),
    "no_suffix": lambda p: p.write_text(LINES),
    "lines.jsonl.gz": lambda p: p.write_bytes(gzip.compress(LINES.encode())),
    "gz_by_content.jsonl": lambda p: p.write_bytes(gzip.compress(LINES.encode())),
    "lines.jsonl.bz2": lambda p: p.write_bytes(bz2.compress(LINES.encode())),
    "lines.jsonl.xz": lambda p: p.write_bytes(lzma.compress(LINES.encode())),
    "lines.jsonl.zst": zstd,
    "table.parquet": as_parquet,
    "parquet_by_content": as_parquet,
    "file.arrow": as_arrow,
    "stream.arrow": lambda p: as_arrow(p, ipc.new_stream),
    "comma.csv": lambda p: p.write_text(CSV),
    "bom.csv": lambda p: p.write_text(CSV, encoding="utf-8-sig"),
    "excel.csv": lambda p: p.write_text(CSV.replace(",", ";").replace("\n", "\r\n"), newline=""),
    "frame.csv": lambda p: p.write_text(
        "".join(f"{n or ''},{x}\n" for n, x in enumerate(CSV.strip().split("\n")))
    ),
    "tabs.tsv": lambda p: p.write_text(CSV.replace(",", "\t")),
    "packed.csv.gz": lambda p: p.write_bytes(gzip.compress(CSV.encode())),
}


@pytest.mark.parametrize("name", FILES)
def test_files(name: str, tmp_path: Path):
    FILES[name](tmp_path / name)
    rows = [{**row, "n": int(row["n"])} for row, _ in read_rows(tmp_path / name)]
    assert rows == MANY
    for env in ("math-v1", "data-v1"):
        made = make_env(env, data=str(tmp_path / name), prompt="{problem}").unwrapped
        assert made.count("train") + made.count("test") == 30
        assert made.notices[0].startswith(f"{tmp_path / name}: read as rows of problem and answer: ")
    # And as a benchmark's.
    benchmark = Benchmark("mine", env="math-v1", source="nowhere.jsonl", problems=30, prompt="{problem}")
    found = find_data(benchmark, tmp_path / name, tmp_path / "kept")
    assert [{**row, "n": int(row["n"])} for row, _ in read_rows(found.path)] == MANY


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("d.jsonl", LINES.encode("utf-16"), "is UTF-16 text; convert it"),
        ("d.csv", CSV.encode("utf-16-be"), "UTF-16; convert it to UTF-8"),
        ("d.jsonl", LINES.encode("utf-16-le"), "UTF-16; convert it to UTF-8"),
        ("d.csv", "problem,answer\nGrüße,1\n".encode("latin-1"), "is not UTF-8 text.*iconv"),
        (
            "d.jsonl",
            b'{"problem": "1", "answer": "1"}\n{"problem": "\xe9"}\n',
            "not UTF-8 text: .* in line 2",
        ),
        ("d.jsonl.gz", gzip.compress(LINES.encode())[:-20], "is not a complete gz file"),
        ("d.jsonl.xz", lzma.compress(LINES.encode())[:-20], "is not a complete xz file"),
        ("d.parquet", b"PAR1 and then nothing", "is not a complete Parquet file"),
        ("d.parquet", b"", "is empty"),
        ("d.parquet", b"no such thing", "is not a complete Parquet file"),
        ("d.zip", b"PK\x03\x04 and so on", "a zip archive"),
        ("d.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        ("d.csv", b"problem,answer\n1,2,3\n", "line 2: the number of cells differs"),
        ("d.csv", b"problem,answer\n1\n", "line 2: the number of cells differs"),
        ("d.csv", b"problem,problem\n1,2\n", "line 1: the header must name each column"),
        ("d.csv", b'problem,answer\n"1,2\n', "not valid CSV"),
        ("d.csv", b"problem,answer\n", "is empty"),
        (
            "d.json",
            b'[\n{"problem": "1", "answer": "1"},\n\n  {"problem": }\n]',
            r"line 4, column 15: not valid JSON \(Expecting value\); fix it$",
        ),
        ("d.json", b'[{"problem": "1", "answer": "1"},\n{"problem": }]', "line 2, column 13: not valid JSON"),
        ("d.json", b'[\n{"problem": "1"}\n{"problem": "2"}\n]', "line 3, column 1: not valid JSON"),
        (
            "d.jsonl",
            b'{"problem": "1"\n{"problem": "2", "answer": "2"}\n',
            r"line 1, column 16: not valid JSON \(Expecting ',' delimiter\); fix or remove the line$",
        ),
        (
            "d.jsonl",
            LINES.encode() + b'{"problem"}\n' + LINES.encode() + b"{\n",
            r"line 31, column 11: not valid JSON \(Expecting ':' delimiter\), like 1 later line; fix or",
        ),
        (
            "d.jsonl",
            LINES.encode() + b"{\n{\n{\n",
            "line 31, column 2: .*, like 2 later lines; fix or remove them",
        ),
        (
            "d.jsonl",
            b'{"problem": "1", "answer": "1"}\n[{"role": "user"\n',
            "line 2, column 17: not valid JSON .*; fix or remove the line",
        ),
        ("d.json", b'"text"', "instead of rows"),
        ("d.json", b"[1, 2]", "item 0: not a JSON object"),
    ],
)
def test_files_that_are_refused(name: str, content: bytes, complaint: str, tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=complaint) as caught:
        make_env("math-v1", data=str(tmp_path / name))
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_without_pyarrow_a_line_says_what_to_install(tmp_path: Path):
    as_parquet(tmp_path / "d.parquet")
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from areal.envs.rows import read_rows, Path\nfrom areal.errors import UserError\n"
        f"try: list(read_rows(Path({str(tmp_path / 'd.parquet')!r})))\n"
        "except UserError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "is a Parquet file; to read it, run pip install" in out
    assert "[data]" in out
    assert out.count("\n") == 1
