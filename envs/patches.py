"""Applies unified diffs, as ``git diff`` and models write them, to texts by path."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

_FENCE = re.compile(r"^```(?:diff|patch)[ \t]*\n(.*?)(?:^```|\Z)", re.MULTILINE | re.DOTALL)
_BEGIN = re.compile(r"^(?:diff --git .*|--- .*\n\+\+\+ .*)$", re.MULTILINE)
_HUNK = re.compile(r"@@ -(\d+)")
_NOTHING = "/dev/null"


class PatchError(ValueError):
    """A diff does not apply; the message says where."""


@dataclass(slots=True)
class _Hunk:
    line: int
    old: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Change:
    old: str
    new: str
    hunks: list[_Hunk] = field(default_factory=list)


def diff_in(text: str) -> str | None:
    """Return the diff in an answer: its last code block with a diff, or everything from where one starts."""
    if blocks := _FENCE.findall(text):
        return str(blocks[-1])
    begin = _BEGIN.search(text)
    return text[begin.start() :] if begin else None


def patched(files: Mapping[str, str], diff: str) -> dict[str, str | None]:
    """Return the files that a diff changes.

    A hunk is applied at its line if its old lines are there. Otherwise it is applied where they are, if there
    is only one such place.

    Returns:
        New texts by path; None represents a deleted file.

    Raises:
        PatchError: the text is not a diff, or it does not apply.
    """
    found: dict[str, str | None] = {}
    for change in _changes(diff):
        if change.old == _NOTHING:
            found[change.new] = "\n".join(line for hunk in change.hunks for line in hunk.new) + "\n"
            continue
        text = found.get(change.old, files.get(change.old))
        if text is None:
            raise PatchError(f"the file '{change.old}' does not exist")
        lines, shift = text.split("\n"), 0
        for hunk in change.hunks:
            place = _place(lines, hunk, shift, change.old)
            lines[place : place + len(hunk.old)] = hunk.new
            shift += len(hunk.new) - len(hunk.old)
        if change.new != change.old:
            found[change.old] = None
        if change.new != _NOTHING:
            found[change.new] = "\n".join(lines)
    if not found:
        raise PatchError("it contains no change")
    return found


def _place(lines: list[str], hunk: _Hunk, shift: int, path: str) -> int:
    size = len(hunk.old)
    stated = max(0, hunk.line - 1 + shift)
    if size == 0:
        return min(stated + 1, len(lines)) if hunk.line else 0
    if lines[stated : stated + size] == hunk.old:
        return stated
    places = [i for i in range(len(lines) - size + 1) if lines[i : i + size] == hunk.old]
    if len(places) != 1:
        raise PatchError(f"the lines of a hunk occur {len(places)} times in {path}: {hunk.old[0]!r} …")
    return places[0]


def _changes(diff: str) -> Iterator[_Change]:
    lines = diff.split("\n")
    while lines and not lines[-1]:
        lines.pop()
    change: _Change | None = None
    hunk: _Hunk | None = None
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        if line.startswith(("rename from", "copy from", "Binary files", "GIT binary")) and hunk is None:
            raise PatchError(f"it contains something other than changes of lines: {line[:60]!r}")
        if line.startswith("--- ") and number < len(lines) and lines[number].startswith("+++ "):
            if change is not None:
                yield change
            change, hunk = _Change(_path(line, "a/"), _path(lines[number], "b/")), None
            number += 1
        elif line.startswith("diff --git "):
            hunk = None
        elif (at := _HUNK.match(line)) and change is not None:
            hunk = _Hunk(int(at[1]))
            change.hunks.append(hunk)
        elif hunk is not None and not line.startswith("\\"):
            if line[:1] not in ("", " ", "+", "-"):
                raise PatchError(f"a line of a hunk does not begin with a space, '+' or '-': {line[:60]!r}")
            if line[:1] != "+":
                hunk.old.append(line[1:])
            if line[:1] != "-":
                hunk.new.append(line[1:])
    if change is not None:
        yield change


def _path(line: str, side: str) -> str:
    return line[4:].split("\t")[0].strip().removeprefix(side)
