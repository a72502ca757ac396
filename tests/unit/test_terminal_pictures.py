"""The picture of a terminal shows what its command has left there, and lets nothing out of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

from pages import ROOT

SVG = "{http://www.w3.org/2000/svg}"


def test_a_command_is_recorded_and_drawn(tmp_path: Path):
    recording, picture = tmp_path / "it.cast", tmp_path / "it.svg"
    script = r"""printf 'before\n'; sleep 0.01; printf '\033[A\033[2K\033[36mafter\033[0m <b>\n'; exit 3"""
    record = [sys.executable, ROOT / "scripts/record_terminal.py", recording, "sh", "-c", script]
    done = subprocess.run(record, capture_output=True, text=True)
    assert done.returncode == 3, "as the command ended"
    subprocess.run([sys.executable, ROOT / "scripts/draw_terminal.py", recording, picture], check=True)
    rows = ["".join(row.itertext()) for row in ElementTree.parse(picture).iter(f"{SVG}text")]
    assert rows[-1] == "after <b>", "in the last frame"
    assert "before" not in rows[-2:], "it was drawn over"
