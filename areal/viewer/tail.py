"""Reads the new lines of a growing JSON lines file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from areal.telemetry.run_directory import parsed

Line = dict[str, Any]


class Tail:
    """Reads the new part of a file each time.

    Args:
        keys: keys of each line to keep; None: all.
    """

    def __init__(self, keys: set[str] | None = None) -> None:
        self._keys = keys
        self._inode, self._read = -1, 0

    def read(self, path: Path) -> tuple[list[Line], bool]:
        """Return the new lines, and whether they replace the earlier ones, as after the file is replaced."""
        try:
            with path.open("rb") as file:
                stat = os.fstat(file.fileno())
                changed = stat.st_ino != self._inode or stat.st_size < self._read
                again = changed and self._inode >= 0
                if changed:
                    self._inode, self._read = stat.st_ino, 0
                file.seek(self._read)
                data = file.read()
        except FileNotFoundError:
            again, self._inode, self._read = self._inode >= 0, -1, 0
            return [], again
        end = data.rfind(b"\n") + 1
        self._read += end
        lines = (line for raw in data[:end].splitlines() if (line := parsed(raw)) is not None)
        if self._keys is None:
            return list(lines), again
        return [{key: line[key] for key in self._keys & line.keys()} for line in lines], again
