"""Tables for terminals of any width."""

from __future__ import annotations

import io
import pty

import pytest
from rich.console import Console

from areal.telemetry.tables import console, fitted

COLUMNS = ("benchmark", "B − A (95% interval)", "verdict")
ROWS = [
    ("livecodebench", "+0.065 (-0.030 to +0.160)", "no significant difference"),
    ("gsm8k", "+0.200 (+0.100 to +0.300)", "B is better"),
]


def shown(width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(*fitted(COLUMNS, ROWS, width))
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize("width", [24, 40, 64, 75, 120])
def test_nothing_is_cut_off(width: int):
    lines = shown(width)
    assert max(map(len, lines)) <= width
    assert "…" not in "".join(lines)
    # A cell that takes several lines has parts of others between its own.
    words = {word for line in lines for word in line.replace("│", " ").replace("┃", " ").split()}
    whole = {word for cell in (*COLUMNS, *ROWS[0], *ROWS[1]) for word in cell.split()}
    assert width < 40 or whole <= words


def test_one_table_where_it_fits_and_one_for_each_row_where_not():
    assert len(shown(120)) == 3 + len(ROWS) + 1
    assert sum("benchmark" in line for line in shown(120)) == 1
    assert sum("benchmark" in line for line in shown(40)) == len(ROWS)


@pytest.mark.parametrize(("columns", "wraps"), [(None, False), ("40", True)])
def test_only_terminals_and_columns_wrap_lines(
    columns: str | None, wraps: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.delenv("COLUMNS", raising=False)
    if columns is not None:
        monkeypatch.setenv("COLUMNS", columns)
    line = "word " * 1000
    console().print(line)
    console().print(*fitted(COLUMNS, ROWS, console().width))
    printed = capsys.readouterr().out
    assert (line.strip() in printed) is not wraps
    assert (" ".join(COLUMNS) in " ".join(printed.replace("┃", "").split())) is not wraps
    assert "…" not in printed


def test_a_terminal_has_its_own_width(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    ours, theirs = pty.openpty()
    with open(theirs, "w") as terminal, open(ours, "rb"):
        assert console(terminal).width < 1000
    assert console(io.StringIO()).width > 1000
