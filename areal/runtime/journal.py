"""The journal records the state of each group since its admission, so that no finished group is lost.

A checkpoint is written every few updates. The journal is written continuously, on a separate thread. The
groups that a killed run still has are those of the journal, minus those of the recorded batches:

- The file has one record per line, ``CRC32 KIND NUMBER VERSION [JSON]``: a group was ``admitted``, has
  ``finished`` (the JSON is the whole group), or was ``rejected``. The first record, ``start VERSION
  NEXT_GROUP``, names the update after which the file begins. A reader skips records that do not match their
  checksum, such as a last one that was cut off.
- Consumed groups have no record of their own. The batches in ``rollouts/``, which the same thread writes,
  contain this information. At no moment is a group both consumed and outstanding, or neither.
- When the file contains many consumed groups, it is rewritten with the groups that are then outstanding. The
  size of the file is bounded, regardless of the length of the run and the number of its checkpoints.

The operating system receives each record at once, so if the run is killed, at most the record in progress is
lost. The journal is forced to disk before each batch. If the machine crashes, groups that have finished since
the last update may be lost, but never a group that a batch on disk depends on.

If the disk is full, the run loses its journal, but continues. The journal begins anew after the next update,
if there is room.
"""

from __future__ import annotations

import asyncio
import json
import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from areal import disk
from areal.rollout.admission import Admission
from areal.runtime.rollout_state import RolloutState, state_of
from areal.telemetry.run_directory import RunDirectory, json_line
from areal.threads import CallThread
from areal.trajectory import Group, TokenValues

_GROWTH = 64 * 2**20
"""Bytes of consumed groups, beyond those of outstanding ones, after which the file is rewritten."""
_PATIENCE = 10.0
"""Seconds that the end of a run waits for the disk."""


class Journal:
    """Writes the journal of a run, and the batches that the run consumes.

    Args:
        directory: the run directory.
        admission: calls the journal whenever the state of a group changes.
        warn: called with a line if the journal cannot be written.
        growth: bytes of consumed groups after which the file is rewritten.
    """

    def __init__(
        self,
        directory: RunDirectory,
        admission: Admission[Group],
        warn: Callable[[str], None] = lambda line: None,
        growth: int = _GROWTH,
    ) -> None:
        self._directory = directory
        self._admission = admission
        admission.log = self._log
        self._warn = warn
        self._growth = growth
        self._thread = CallThread("areal-journal")
        self._file: _File | None = None
        self._trouble: OSError | None = None
        self._warned = False

    async def start(self) -> None:
        """Begin the file anew, with the currently outstanding groups."""
        await self._do(partial(self._begin, state_of(self._admission)))

    async def consume(self, step: int, groups: list[Group], values: Sequence[TokenValues] = ()) -> None:
        """Record the batch of update ``step``. Its groups count as consumed once this returns.

        Args:
            values: the update's values for the tokens of a few rollouts.

        Raises:
            UserError: the batch cannot be written.
        """
        state = state_of(self._admission)
        state.version = step  # the engine may not have its weights yet
        await self._do(partial(self._consume, step, groups, values, state))
        if self._file is None and self._trouble is not None and not self._warned:
            self._warned = True
            line = disk.explained(self._trouble, self._directory.path, "the journal") or self._trouble
            self._warn(
                f"{line}; until the journal can be written, finished groups are lost if the run is killed"
            )

    async def close(self) -> None:
        """Wait until everything is written, but only for some seconds."""
        last = asyncio.wrap_future(self._thread.start(self._leave))
        self._thread.end()
        await asyncio.wait([last], timeout=_PATIENCE)

    async def _do(self, work: Callable[[], None]) -> None:
        """Run work on the thread, even if the caller is cancelled."""
        await asyncio.shield(self._thread.run(work))

    def _log(self, kind: str, number: int, version: int, group: Group | None) -> None:
        self._thread.start(partial(self._append, kind, number, version, group))

    # All methods below run on the thread.

    def _begin(self, state: RolloutState) -> None:
        """Write the file anew. The old file stays in use until this has succeeded."""
        path, made = self._directory.journal, None
        temporary = path.with_name(f".{path.name}.partial")
        try:
            made = _File(temporary)
            made.write("start", state.version, state.next_group)
            for number, (version, group) in state.outstanding.items():
                line = "" if group is None else self._line(group)
                made.write("admitted" if group is None else "finished", number, version, line)
            made.sync()
            temporary.replace(path)
            disk.sync(path.parent)
        except OSError as error:
            self._trouble = error
            if made is not None:
                made.close()
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        else:
            self._leave()
            self._file, self._trouble = made, None

    def _consume(
        self, step: int, groups: list[Group], values: Sequence[TokenValues], state: RolloutState
    ) -> None:
        self._try(lambda file: file.sync())  # the remaining groups are on disk before the batch
        if values:
            self._directory.log_token_values(step, (json_line(each.to_json()) for each in values))
        self._directory.log_rollouts(step, map(self._line, groups))
        if self._file is not None:
            self._file.forget(group.id for group in groups)
        if self._file is None or self._file.outdated > self._growth:
            self._begin(state)

    def _line(self, group: Group) -> str:
        """Return a group as a line of JSON, which the file usually contains already."""
        line = None if self._file is None else self._file.line(group.id)
        return json_line(group.to_json()) if line is None else line

    def _append(self, kind: str, number: int, version: int, group: Group | None) -> None:
        line = "" if group is None else json_line(group.to_json())
        self._try(lambda file: file.write(kind, number, version, line))

    def _try(self, work: Callable[[_File], None]) -> None:
        """Run work on the file, if there is one. After a disk error there is none."""
        if self._file is None:
            return
        try:
            work(self._file)
        except OSError as error:
            self._trouble = error
            self._leave()

    def _leave(self) -> None:
        if self._file is not None:
            self._file.close()
        self._file = None


class _File:
    """A file of records that knows the positions of its groups' lines."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o666)
        self._size = 0
        self._places: dict[int, tuple[int, int]] = {}

    @property
    def outdated(self) -> int:
        """Bytes beyond twice those of the groups that are still outstanding."""
        return self._size - 2 * sum(length for _, length in self._places.values())

    def write(self, kind: str, number: int, version: int, line: str = "") -> None:
        """Append a record; ``line`` is the JSON of a group, with its newline."""
        data = f"{kind} {number} {version} {line}".rstrip().encode()
        left = memoryview(b"%08x %s\n" % (zlib.crc32(data), data))
        self._size += len(left)
        if line:
            length = len(line.encode())
            self._places[number] = (self._size - length, length)
        while left:
            left = left[os.write(self._descriptor, left) :]

    def line(self, number: int) -> str | None:
        """Return the line of a group from :meth:`write`, if there is one."""
        if (place := self._places.get(number)) is None:
            return None
        return os.pread(self._descriptor, place[1], place[0]).decode()

    def forget(self, numbers: Iterable[int]) -> None:
        """Count these groups as consumed."""
        for number in numbers:
            self._places.pop(number, None)

    def sync(self) -> None:
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


def read_journal(path: Path) -> RolloutState | None:
    """Return the outstanding groups of a journal, including consumed ones; None: the journal is invalid."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return None
    records = [record for line in lines if (record := _checked(line)) is not None]
    return _replayed(records) if records and records[0][0] == "start" else None


def _checked(line: bytes) -> list[str] | None:
    """Return the fields of a record; None: the record is damaged or incomplete."""
    checksum, _, data = line.partition(b" ")
    if checksum != b"%08x" % zlib.crc32(data):
        return None
    return data.decode().split(" ", 3)


def _replayed(records: list[list[str]]) -> RolloutState:
    _, version, following = records[0]
    outstanding, next_group = dict[int, tuple[int, Group | None]](), int(following)
    for kind, number, admitted, *line in records[1:]:
        n = int(number)
        if kind == "rejected":
            outstanding.pop(n, None)
        else:
            group: Any = Group.from_json(json.loads(line[0])) if line else None
            outstanding[n] = (int(admitted), group)
        next_group = max(next_group, n + 1)
    return RolloutState(int(version), next_group, dict(sorted(outstanding.items())))
