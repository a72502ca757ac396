"""Atomic writes of files, and one-line errors for a disk that refuses to write them."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from areal.errors import DiskFull, UserError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM, errno.EFBIG, errno.ESTALE, errno.EREMOTEIO)
"""Errors that the disk or its permissions cause. Any other error, such as a folder in place of a file, is a
defect."""


@contextmanager
def one_line(folder: Path, what: str = "") -> Iterator[None]:
    """Raise the errors of the disk within the block as one-line errors.

    Args:
        folder: the folder of the files.
        what: what is written, for the message; empty: the message does not say.

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
    """Return the error that :func:`one_line` raises for an exception; None: the disk is not the cause.

    The exceptions of safetensors and torch contain the error number only in their message.
    """
    number = error.errno if isinstance(error, OSError) else None
    text = str(error)
    if number in _FULL or f"os error {errno.ENOSPC}" in text or "No space left" in text:
        quota = " within the disk quota" if number == errno.EDQUOT else ""
        return DiskFull(f"no space left{quota}{f' for {what}' if what else ''} in {folder}; free some space")
    if number in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE) and not folder.is_dir():
        return gone(folder)
    if number in _REFUSED:
        return UserError(f"cannot write {f'{what} ' if what else ''}in {folder}: {os.strerror(number)}")
    return None


def gone(folder: Path) -> UserError:
    """Return the error for a folder that was removed, perhaps with its parents."""
    first = next((path for path in (*reversed(folder.parents), folder) if not path.is_dir()), folder)
    return UserError(f"{first} no longer exists: it was removed or moved while the run was writing to it")


class Held:
    """A folder that must remain in place. Libraries that write to a removed folder create it again.

    True while its path still names the folder that was there when this context was entered.
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
        """Raise UserError if the folder was removed."""
        if not self:
            raise gone(self._folder)


def write_whole(path: Path, lines: Iterable[str]) -> None:
    """Write a file completely or not at all, even if the machine crashes."""
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
    """Flush a folder to the disk, so that a rename never shows a name without its contents."""
    for path in [*folder.rglob("*"), folder]:
        sync(path)


def sync(path: Path) -> None:
    """Flush a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
