"""Closes places outside a machine in which the host's programs would search for files.

Links of the host may lead to ``/opt``, as may the linker's cache and a ``.pth`` file of Python. In the
machine these places are empty, so the search continues; but a command could create files there for the test
programs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator
from pathlib import Path

from . import libc, namespaces

_CACHE = "/etc/ld.so.cache"
_PACKAGES = ("lib/python3*", "local/lib/python3*")
_NOTHING = "/nothing"


def close(folders: str, kept: Collection[str]) -> None:
    """Ensure that nothing can be found in such places; the mount namespace must be our own.

    Args:
        folders: folders of programs, in the form of PATH.
        kept: top-level folders in which no command can create files.

    Raises:
        OSError: a mount failed.
    """
    pinned = set[Path]()
    for path in sorted({*_links(folders), *_cached()}):
        if _top(path) in kept or os.path.isdir(path):
            continue
        # A mount point, and the folders above it, can be neither moved nor recreated.
        for place in (*reversed(path.parents[:-1]), path):
            if place not in pinned:
                place.mkdir(exist_ok=True)
                libc.mount(str(place), str(place), "", libc.MS_BIND)
                pinned.add(place)
        path.chmod(0)
        namespaces.seal(str(path))
    Path(_NOTHING).touch()
    for file in _path_files(kept):
        libc.mount(_NOTHING, str(file), "", libc.MS_BIND)
        namespaces.seal(str(file))
    Path(_NOTHING).unlink()


def _top(path: Path) -> str:
    return f"/{path.parts[1]}" if len(path.parts) > 1 else "/"


def _links(folders: str) -> Iterator[Path]:
    """Yield the targets of links among programs, unless a program of that name is found earlier."""
    found = set[str]()
    for folder in filter(os.path.isdir, folders.split(":")):
        for name in os.listdir(folder):
            path = f"{folder}/{name}"
            if name not in found and os.path.islink(path):
                yield Path(os.path.realpath(path))
            if os.path.exists(path):
                found.add(name)


def _cached() -> Iterator[Path]:
    """Yield the libraries in the linker's cache, which are texts between zero bytes."""
    if os.path.exists(_CACHE):
        for name in re.findall(rb"(?<=\0)/[!-~]+\.so[!-~]*(?=\0)", Path(_CACHE).read_bytes()):
            yield Path(os.path.realpath(os.fsdecode(name)))


def _path_files(kept: Collection[str]) -> Iterator[Path]:
    """Yield the ``.pth`` files that add folders writable by commands to Python's import path."""
    for pattern in _PACKAGES:
        for file in sorted(Path("/usr").glob(f"{pattern}/*-packages/*.pth")):
            readable = file.is_file() and os.access(file, os.R_OK)
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if readable else ()
            named = [line.strip() for line in lines if not line.startswith(("#", "import ", "import\t"))]
            if any(_top(Path(os.path.realpath(file.parent / name))) not in kept for name in named if name):
                yield file
