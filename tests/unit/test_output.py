"""Standard output on a full disk, in a pipe that is closed, and closed itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

AREAL = f"{sys.executable} -m areal"


def shell(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)


# The second one flushes as it goes, the third is refused besides.
@pytest.mark.parametrize("command", ["env list", "eval --benchmark list", "replay /nowhere"])
def test_a_full_disk_is_one_line(command: str):
    done = shell(f"{AREAL} {command} > /dev/full")
    assert done.returncode == 2
    assert done.stderr.startswith("areal: error: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("env list >&-", 0),
        ("env list <&- >&- 2>&-", 0),
        ("replay /nowhere 2>&-", 2),
        ("train --env nope 2>&-", 2),
        ("replay /nowhere 2> /dev/full", 2),
    ],
)
def test_nowhere_to_write(command: str, code: int):
    done = shell(f"{AREAL} {command}")
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


def test_a_pipe_that_is_closed_ends_it_without_a_word():
    done = shell(f"{AREAL} env list | true; echo ${{PIPESTATUS[0]}}")
    assert done.stderr == ""
    assert done.stdout.strip() in ("0", "1", "141"), "it may be done before the pipe is closed"


def test_the_screen_may_go_away(tmp_path: Path):
    code = (
        "from pathlib import Path\nfrom areal.telemetry.logs import capture\n"
        "from areal.telemetry.progress import Progress\n"
        "from areal.telemetry.run_directory import RunDirectory\n"
        f"with capture(RunDirectory(Path({str(tmp_path)!r}))) as terminal:\n"
        "    with Progress(3, 'title', True, terminal) as progress:\n"
        "        progress.message('seen by nobody')\n"
        "        progress.update({'step': 1, 'reward/mean': 0.5})\n"
        "Path('done').touch()\n"
    )
    done = subprocess.run(
        ["bash", "-c", f'{sys.executable} -c "$0" 2> /dev/full', code], cwd=tmp_path, check=False
    )
    assert done.returncode == 0
    assert (tmp_path / "done").exists()
