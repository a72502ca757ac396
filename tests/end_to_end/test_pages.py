"""Pages that say so are true as a whole: their files are written, their commands run, as a newcomer would."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from notebooks import execute
from pages import ROOT, RUN_PAGES, assert_printed, blocks
from transformers import AutoModelForCausalLM, AutoTokenizer


def run_page(page: Path, folder: Path) -> str:
    """Run the commands of a page in an empty folder; return what they print."""
    script = [
        f'areal() {{ {shlex.quote(sys.executable)} -m areal "$@" $WITH; }}',
        f'python() {{ {shlex.quote(sys.executable)} "$@"; }}',
    ]
    for block in blocks(page):
        if block.title:
            (folder / block.title).write_text(block.text)
        elif block.language == "sh" and block.directive != "check":
            script += [f"WITH={shlex.quote(block.settings)}", block.text]
    out = subprocess.run(
        ["bash", "-exc", "\n".join(script)],
        cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert out.returncode == 0, out.stdout[-5000:]
    return out.stdout


def metrics(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").open()]


def the_default_job_learned(folder: Path, printed: str) -> None:
    """A part of the default run: held-out accuracy rises by far more than its noise."""
    run = folder / "runs/first"
    rows = metrics(run)
    before, after = (row["eval/math-v1/avg@1"] for row in rows if "eval/math-v1/avg@1" in row)
    assert after > before + 0.1
    trained = [row for row in rows if "reward/mean" in row]
    assert max(row["staleness/max"] for row in trained) <= 4
    wall = sum(row["time/step"] for row in trained)
    assert sum(row["time/train"] + row["time/generate"] for row in trained) > wall, "they overlap"
    assert (folder / "runs/latest").resolve() == run.resolve()
    AutoModelForCausalLM.from_pretrained(run / "model")
    AutoTokenizer.from_pretrained(run / "model")
    page = (ROOT / "docs/run-directory.md").read_text()
    unexplained = [path.name for path in run.iterdir() if f"`{path.name}" not in page]
    assert not unexplained, "what is left in the run directory"
    looked = execute("results.ipynb", folder, run="runs/first")
    assert f"after update 20: eval/math-v1/avg@1 is {after:.3f}" in looked
    assert "16 groups, 128 episodes" in looked


def a_newcomer_s_environment(folder: Path, printed: str) -> None:
    assert "rules hold" in printed
    rows = metrics(folder / "runs/mine")
    before, after = (row["eval/my-env/avg@1"] for row in rows if "eval/my-env/avg@1" in row)
    assert after > before + 0.1
    assert (folder / "runs/mine/curve.png").exists()


def an_evaluation_is_kept(folder: Path, printed: str) -> None:
    kept = folder / "runs/eval/sampled"
    assert {"gsm8k.jsonl", "report.json", "report.md", "rescored"} <= {path.name for path in kept.iterdir()}
    assert "0 responses have a different score" in printed
    assert "verdict" in printed


OUTCOMES: dict[str, Callable[[Path, str], None]] = {
    "first-run.md": the_default_job_learned,
    "environments.md": a_newcomer_s_environment,
    "evaluation.md": an_evaluation_is_kept,
}
"""What more must be true when a page has been run."""


@pytest.mark.parametrize("page", RUN_PAGES, ids=lambda page: page.name)
def test_page(page: Path, tmp_path: Path):
    printed = run_page(page, tmp_path)
    assert_printed(page, printed)
    if page.name in OUTCOMES:
        OUTCOMES[page.name](tmp_path, printed)
