"""The status of a run, which other processes read: ``status.json`` in the run directory.

The file contains plain data and is written every second. It is replaced as a whole, so that a reader on any
host that shares the folder never sees an incomplete file.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from areal.errors import UserError

_FILE = "status.json"
_STALE = 15.0
"""Seconds without an update of the status after which a run on another host counts as lost."""
_WORKERS = ("worker", "host", "pid", "silent", "cores", "version", "in progress", "done")


def write_status(folder: Path, status: dict[str, Any]) -> None:
    """Replace the status of a run; raise OSError if it cannot be written."""
    partial = folder / f".{_FILE}.partial"
    partial.write_text(json.dumps(status), encoding="utf-8")
    partial.replace(folder / _FILE)


def identity() -> dict[str, Any]:
    """Return data that identify this process as the writer of a status."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "began": _began(os.getpid())}


def read_status(folder: Path) -> dict[str, Any]:
    """Return the status of a run, with its current ``state`` and its ``age`` in seconds.

    The state is ``running``, ``suspended`` (Ctrl-Z), ``ended``, or ``lost``, which means that the run has
    ended without a report.

    Raises:
        UserError: there is no status.
    """
    try:
        status = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder} has no {_FILE}: the run has not started yet, or did not write one"
        ) from error
    status["age"] = max(0.0, time.time() - status["time"])
    status["state"] = _state(status)
    status["checkpoint"] = _last_checkpoint(folder)
    return status


def _state(status: dict[str, Any]) -> str:
    if status["ended"]:
        return "ended"
    if status["host"] != socket.gethostname():
        return "lost" if status["age"] > _STALE else "running"
    if _began(status["pid"]) != status["began"]:
        return "lost"
    return "suspended" if _stat(status["pid"])[:1] == ["T"] else "running"


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _began(pid: int) -> str:
    """Return the start time of a process, in kernel ticks, to distinguish processes with the same number."""
    fields = _stat(pid)
    return fields[19] if fields else ""


def _last_checkpoint(folder: Path) -> dict[str, float] | None:
    found = {int(c.name[5:]): c for c in folder.glob("checkpoints/step-*") if c.name[5:].isdigit()}
    if not found:
        return None
    last = max(found)
    return {"update": last, "age": max(0.0, time.time() - found[last].stat().st_mtime)}


def rows(status: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield names and values of everything in a status except its workers."""
    yield "run", _run(status)
    yield "updates", f"{status['version']} of {status['steps']}"
    for wait in status["waits"]:
        yield "waiting", f"{wait['who']} for {wait['what']}, {span(wait['seconds'])}"
    groups, over = status.get("groups"), status.get("state") in ("ended", "lost")
    if groups:
        now = "" if over else f"{groups['in flight']} in flight, "
        yield (
            "groups",
            f"{groups['admitted']} admitted, {now}{groups['finished']} complete and not yet trained on",
        )
    if groups and not over:
        episodes = status["episodes"]
        longest = f" (the longest {span(episodes['longest call'])})" if episodes["longest call"] else ""
        yield (
            "episodes",
            f"{episodes['in flight']} in flight, with {episodes['requests']} requests in engines and "
            f"{episodes['environment calls']} environment calls{longest}",
        )
    rates = status["rates"]
    yield "rates", f"{rates['tokens_per_s']:,.0f} tokens/s, {rates['updates_per_hour']:,.0f} updates/h"
    yield "restarts", str(status["restarts"])
    if kept := status.get("checkpoint"):
        yield "checkpoint", f"update {kept['update']}, {span(kept['age'])} ago"
    if status["report"]:
        yield "report", status["report"]


def _run(status: dict[str, Any]) -> str:
    where = f"process {status['pid']} on {status['host']}"
    state = status.get("state", "running")
    if state == "ended":
        return f"ended {span(status['age'])} ago: {status['ended']}"
    if state == "lost":
        return f"killed: {where} no longer exists; its last status is {span(status['age'])} old"
    late = f"; its last status is {span(status['age'])} old" if status.get("age", 0) > _STALE else ""
    return f"{state} for {span(status['seconds'])}, {where}{late}"


def worker_rows(status: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Return the columns and rows of a table of the workers in a status."""
    found = [
        (
            worker["name"],
            worker["host"],
            str(worker["pid"]),
            f"{worker['silent']:.0f} s",
            f"{worker['cores']:.1f}",
            *(
                (str(work["version"]), str(work["open"]), f"{work['done']:,} {work['unit']}")
                if (work := worker["work"])
                else ("", "", "starting" if worker["starting"] else "")
            ),
        )
        for worker in status["workers"]
    ]
    used = [i for i, name in enumerate(_WORKERS) if name in ("worker", "pid") or any(row[i] for row in found)]
    return tuple(_WORKERS[i] for i in used), [tuple(row[i] for i in used) for row in found]


def span(seconds: float) -> str:
    """Return a duration in a few characters."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
