"""Files that appear whole or not at all, and one line for a disk that does not take them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from areal.errors import DiskFull, UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ESTALE, errno.EREMOTEIO)
"""What a disk or its owner refuses; anything else, such as a folder where a file should be, is a defect."""


@contextmanager
def one_line(folder: Path, what: str = "") -> Iterator[None]:
    """Raise what the disk does not do within the block as one line.

    Args:
        folder: what is written is in it.
        what: is written; empty: just something.

    Raises:
        DiskFull: there is no space left, or none within the quota.
        UserError: the folder is gone, or cannot be written.
    """
    try:
        yield
    except OSError as error:
        if (line := explained(error, folder, what)) is None:
            raise
        raise line from error


def explained(error: BaseException, folder: Path, what: str = "") -> UserError | None:
    """Return what :func:`one_line` raises for an error; None: it is not the disk's.

    safetensors and torch have the number of the error in their message only.
    """
    number = error.errno if isinstance(error, OSError) else None
    text = str(error)
    if number in _FULL or f"os error {errno.ENOSPC}" in text or "No space left" in text:
        quota = " within the disk quota" if number == errno.EDQUOT else ""
        return DiskFull(f"no space left{quota}{f' for {what}' if what else ''} in {folder}; free some")
    if number in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE) and not folder.is_dir():
        return gone(folder)
    if number in _REFUSED:
        return UserError(f"cannot write {f'{what} ' if what else ''}in {folder}: {os.strerror(number)}")
    return None


def gone(folder: Path) -> UserError:
    """Return the error of a folder that somebody has removed, perhaps with those above it."""
    first = next((path for path in (*reversed(folder.parents), folder) if not path.is_dir()), folder)
    return UserError(f"{first} is gone: it was removed or moved while the run wrote to it")


class Held:
    """A folder that must stay where it is. Libraries that write below one that is gone make it anew.

    True while it is the folder that it was when this context was entered, and not another one of its name.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> Held:
        with one_line(self._folder):
            self._opened = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._opened)

    def __bool__(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._opened), self._folder.stat())
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
                raise
            return False

    def check(self) -> None:
        """Raise a UserError if the folder is gone."""
        if not self:
            raise gone(self._folder)


def write_whole(path: Path, lines: Iterable[str]) -> None:
    """Write a file that is there entirely or not at all, also when the machine goes down meanwhile."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        sync(path.parent)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def sync_tree(folder: Path) -> None:
    """Force a folder to the disk, so that a rename never shows a name without its contents."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Force a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
