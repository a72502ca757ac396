"""The workers that are processes of this one."""

from __future__ import annotations

from contextlib import suppress

import psutil


def workers(name: str = "") -> list[psutil.Process]:
    """Those that have not ended; or those of a name."""
    found = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):  # it has just ended
            title = (child.cmdline() or [""])[0]
            if title == f"areal {name}" or (not name and title.startswith("areal ")):
                found.append(child)
    return found


def worker(name: str) -> psutil.Process:
    """The one of that name."""
    (found,) = workers(name)
    return found
