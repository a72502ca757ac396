"""docs/environments.md is true: its files are written and its commands run, as a newcomer would."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "environments.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILES = {"python": "short.py", "json": "sums.jsonl"}


def test_a_newcomer_s_path(tmp_path: Path):
    page = PAGE.read_text()
    commands = [
        f'areal() {{ "{sys.executable}" -m areal "$@"; }}',
        f'python() {{ "{sys.executable}" "$@"; }}',
    ]
    for kind, text in BLOCK.findall(page):
        if kind == "sh":
            commands.append(text)
        else:
            name = FILES.get(kind) or ("mixture.yaml" if "mixture:" in text else "sums.yaml")
            assert f"`{name}`" in page
            (tmp_path / name).write_text(text)
    out = subprocess.run(["bash", "-exc", "\n".join(commands)], cwd=tmp_path, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-3000:] + out.stdout[-2000:]
    assert "all is well" in out.stdout
    rows = [json.loads(line) for line in (tmp_path / "runs/first/metrics.jsonl").open()]
    before, after = (row["eval/my-env/avg@1"] for row in rows if "eval/my-env/avg@1" in row)
    assert after > before + 0.1
    assert (tmp_path / "runs/first/curve.png").exists()
