"""Reads the files of a run for check_run.py, with Python alone and without areal."""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Record = dict[str, Any]


@dataclass
class Files:
    """The contents of a run directory.

    Attributes:
        batches: the groups of each update whose batch is recorded.
        journals: copies of the journal, from oldest to newest; the last one is the run's own.
    """

    config: Record
    starts: list[Record]
    metrics: list[Record]
    events: list[Record]
    batches: dict[int, list[Record]]
    journals: list[Journal] = field(default_factory=list)

    @property
    def groups(self) -> Iterator[tuple[int, Record]]:
        """Yield each consumed group with the number of its update."""
        return ((step, group) for step, groups in sorted(self.batches.items()) for group in groups)

    @property
    def episodes(self) -> Iterator[tuple[str, Record]]:
        """Yield each consumed episode with its name in reports."""
        for step, group in self.groups:
            for number, episode in enumerate(group["episodes"]):
                yield f"update {step}, group {group['id']}, episode {number}", episode


@dataclass
class Journal:
    """A journal, or a copy of one.

    Attributes:
        finished: the groups that the journal lists as finished, by number.
        rejected: the numbers of the rejected groups.
        recorded: the last update whose batch was recorded when the journal was copied; None: not a copy.
    """

    name: str
    finished: dict[int, Record]
    rejected: set[int]
    recorded: int | None = None


def read_files(run: Path, journals: Path | None = None) -> Files:
    """Read a run directory and copies of its journal.

    Args:
        run: the run directory.
        journals: a folder that contains one folder per copy, ordered by name. Each has the files ``journal``
            and ``recorded``, the number of the last update whose batch was recorded at that time.
    """
    starts = read_lines(run / "starts.jsonl")
    if not starts:
        sys.exit(f"{run} is not a run that has started: it contains no starts.jsonl")
    batches = {
        int(path.stem.removeprefix("step-")): [json.loads(line) for line in path.read_text().splitlines()]
        for path in run.glob("rollouts/step-*.jsonl")
    }
    found = Files(
        starts[-1]["config"],
        starts,
        read_lines(run / "metrics.jsonl"),
        read_lines(run / "events.jsonl"),
        batches,
    )
    for copy in sorted(journals.iterdir()) if journals is not None and journals.is_dir() else []:
        found.journals.append(read_journal(copy / "journal", int((copy / "recorded").read_text())))
    if (run / "journal").exists():
        found.journals.append(read_journal(run / "journal"))
    return found


def read_lines(path: Path) -> list[Record]:
    """Read JSON lines, without a last line that was cut off."""
    if not path.exists():
        return []
    lines = path.read_text(errors="replace").split("\n")
    found = [json.loads(line) for line in lines[:-1] if line.strip()]
    try:
        return [*found, json.loads(lines[-1])] if lines[-1].strip() else found
    except json.JSONDecodeError:
        return found


def read_journal(path: Path, recorded: int | None = None) -> Journal:
    """Read a journal, which has lines of ``CRC32 KIND NUMBER ...``, without damaged lines."""
    found = Journal(path.parent.name, {}, set(), recorded)
    for line in path.read_bytes().split(b"\n") if path.exists() else []:
        checksum, _, data = line.partition(b" ")
        if checksum != b"%08x" % zlib.crc32(data):
            continue
        kind, number, *rest = data.decode().split(" ", 3)
        if kind == "finished":
            found.finished[int(number)] = json.loads(rest[1])
        elif kind == "rejected":
            found.rejected.add(int(number))
            found.finished.pop(int(number), None)
    return found
