"""Data sets on the hub, by the real client against a hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest
from data_rows import MANY, jsonl
from hub import COMMIT, hub
from pyarrow import parquet

pytest.importorskip("datasets", reason="needs datasets, of areal-gym[data]")

CARD = """---
configs:
- config_name: main
  data_files:
  - {split: train, path: main/train-*}
  - {split: test, path: main/test-*}
- config_name: other
  data_files:
  - {split: train, path: other/train-*}
---
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, list[str], Path]]:
    top = tmp_path_factory.mktemp("hub")
    for name, rows in (("main/train", MANY[:20]), ("main/test", MANY[20:25]), ("other/train", MANY[:3])):
        path = top / "o" / "several" / f"{name}-00000-of-00001.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    (top / "o" / "several" / "README.md").write_text(CARD)
    (top / "o" / "one").mkdir()
    jsonl(top / "o" / "one" / "train.jsonl", *MANY)
    with hub(top) as (url, asked):
        yield url, asked, tmp_path_factory.mktemp("cache")


FOUND = """
import sys
from pathlib import Path
from areal import registry
from areal.evaluation.benchmark_data import find_data
found = find_data(registry.benchmarks.get("gsm8k"), sys.argv[1], Path("written"))
print(found.source, len(found.path.read_text().splitlines()))
"""


def shown(address: tuple[str, list[str], Path], *words: str, **settings: str) -> tuple[int, str]:
    """Return status and output of `areal data show`."""
    return ran(address, "-m", "areal", "data", "show", *words, **settings)


def ran(address: tuple[str, list[str], Path], *words: str, **settings: str) -> tuple[int, str]:
    """Return status and output of Python, in a process that knows this hub alone."""
    url, _, cache = address
    env = {**os.environ, "HF_ENDPOINT": url, "HF_HOME": str(cache), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    out = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, env=env | settings, cwd=cache
    )
    return out.returncode, out.stdout if out.returncode == 0 else out.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "counts"),
    [
        (["o/several", "subset=main"], {"train": 20, "test": 5}),
        (["hf://datasets/o/several@v1", "subset=main"], {"train": 20, "test": 5}),
        ([f"o/several@{COMMIT}:test[:4]", "subset=main"], {"train": 3, "test": 1}),
        (["o/several:train", "subset=main", "test_data=o/several:test"], {"train": 20, "test": 5}),
        (["o/one"], {"train": 27, "test": 3}),
        (["o/one:train[:7]"], {"train": 6, "test": 1}),
    ],
)
def test_data_sets(words: list[str], counts: dict[str, int], address: tuple[str, list[str], Path]):
    status, output = shown(address, *words, "--json", "-n", "1")
    assert status == 0, output
    found = json.loads(output)
    assert found["problems"] == counts
    assert f"{words[0]}: read as rows of problem and answer" in found["notices"][0]


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["o/several"], "pick one among the available configs: ['main', 'other']"),
        (["o/several", "subset=mian"], "'mian' not found"),
        (["o/several:tets", "subset=main"], "has no split 'tets'; did you mean 'test'?"),
        (["o/several@v9", "subset=main"], "Revision Not Found"),
        (["o/nothing"], "'o/nothing': Dataset 'o/nothing' doesn't exist"),
    ],
)
def test_what_is_not_there(words: list[str], complaint: str, address: tuple[str, list[str], Path]):
    status, line = shown(address, *words)
    assert status == 2
    assert line.startswith("areal: error: ")
    assert complaint in line


def test_first_rows_are_streamed(address: tuple[str, list[str], Path], tmp_path: Path):
    url, asked, _ = address
    assert shown((url, asked, tmp_path), "o/several:train[:3]", "subset=main", "-n", "0")[0] == 0
    assert not list(tmp_path.rglob("*.arrow")), "nothing but what was asked for is fetched and kept"


def test_a_revision_is_exact_also_without_the_hub(address: tuple[str, list[str], Path]):
    assert shown(address, "o/several", "subset=main")[0] == 0
    offline = {"HF_HUB_OFFLINE": "1"}
    for place in ("o/several", f"o/several@{COMMIT}"):
        assert shown(address, place, "subset=main", **offline)[0] == 0, "what is kept will do"
    status, line = shown(address, f"o/several@{'b' * 40}", "subset=main", **offline)
    assert status == 2
    assert "the local cache has another revision" in line
    status, line = shown(address, "o/several@v1", "subset=main", **offline)
    assert status == 2
    assert "offline mode is enabled" in line


def test_a_benchmark_of_data_on_the_hub(address: tuple[str, list[str], Path]):
    place = f"o/one@{COMMIT}:train[:4]"
    status, output = ran(address, "-c", FOUND, place)
    assert (status, output.split()) == (0, [place, "4"])
