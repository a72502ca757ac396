"""Tables for terminals of any width; if a row does not fit, each row becomes a small table."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text


_LEAST = 12
"""Minimum width of the last column for reading it on several lines, in characters."""
_UNLIMITED = 10**6
"""Width of what is not a terminal, in characters: other programs read whole lines."""


def console(file: TextIO | None = None, **options: Any) -> Console:
    """Return a console that wraps lines only on a terminal, or at ``COLUMNS``.

    Args:
        file: what it writes to; None: standard output.
        options: other options of the console.
    """
    from rich.console import Console

    target = file or sys.stdout  # None if it is closed
    narrow = (target is not None and target.isatty()) or "COLUMNS" in os.environ
    return Console(file=file, width=None if narrow else _UNLIMITED, **options)


def fitted(columns: Sequence[str], rows: Sequence[Sequence[str | Text]], width: int) -> list[Table]:
    """Return the tables that show some rows in ``width`` characters, text unchanged; nothing is truncated."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    texts = [[Text(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    widths = [max(cell_len(str(cell)) for cell in column) for column in zip(columns, *texts, strict=True)]
    widths[-1] = min(widths[-1], _LEAST)
    if sum(widths) + 3 * len(widths) + 1 <= width:
        wide = Table()
        for name in columns[:-1]:
            wide.add_column(name, no_wrap=True)
        wide.add_column(columns[-1], overflow="fold")
        for row in texts:
            wide.add_row(*row)
        return [wide]
    narrow = []
    for row in texts:
        table = Table(show_header=False)
        table.add_column(style="bold", overflow="fold")
        table.add_column(overflow="fold")
        for name, cell in zip(columns, row, strict=True):
            if cell:
                table.add_row(name, cell)
        narrow.append(table)
    return narrow


def lines(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> list[str]:
    """Return the lines of :func:`fitted` as plain text, with room for an indentation of two characters."""
    target = console(color_system=None, highlight=False)
    with target.capture() as captured:
        for part in fitted(columns, rows, target.width - 2):
            target.print(part)
    return [line.rstrip() for line in captured.get().splitlines()]
