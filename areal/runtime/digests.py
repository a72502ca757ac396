"""Digests of a checkpoint's files, which reveal damage before anything is loaded.

They are in ``SHA256SUMS``, which is written last. ``sha256sum -c`` can read it, too.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SUMS = "SHA256SUMS"
_THREADS = 8


def digests_of(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the SHA-256 of files, by their names below ``folder``; several are read concurrently."""

    def digest(name: str) -> str:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    names = list(names)
    with ThreadPoolExecutor(_THREADS) as threads:
        return dict(zip(names, threads.map(digest, names), strict=True))


def files_of(folder: Path) -> list[str]:
    """Return the names of all files below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def write_sums(folder: Path, last: str, known: Mapping[str, str]) -> None:
    """Write the digests of all files in a folder.

    Args:
        last: the file whose digest comes last; a list without it is incomplete.
        known: digests that other processes have computed.
    """
    found = dict(known) | digests_of(folder, [name for name in files_of(folder) if name not in known])
    ordered = [*(name for name in sorted(found) if name != last), last]
    (folder / SUMS).write_text("".join(f"{found[name]}  {name}\n" for name in ordered), encoding="utf-8")


def damage(folder: Path, last: str) -> str:
    """Briefly describe what is wrong with the files of a folder; empty: nothing is.

    Args:
        last: as in :func:`write_sums`.
    """
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8", errors="replace").splitlines()
        expected = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
        if last not in expected:
            return f"{SUMS} is truncated"
        if missing := [name for name in expected if not (folder / name).is_file()]:
            return f"{missing[0]} is missing"
        found = digests_of(folder, expected)
    except OSError as error:
        what = Path(error.filename).relative_to(folder) if error.filename else "a file"
        return f"{what} cannot be read: {os.strerror(error.errno or 0)}"
    wrong = [name for name in expected if found[name] != expected[name]]
    return f"{wrong[0]} does not match its SHA-256" if wrong else ""
