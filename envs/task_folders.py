"""Tasks that are folders: where they are, and which ones are held out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from areal.envs.data import HasProblem, divided
from areal.errors import UserError

T = TypeVar("T", bound=HasProblem)
LARGEST = 2 << 20
"""Maximum number of bytes of all files of a folder."""


def read_tasks(env: str, place: str | Path, mark: str, read: Callable[[Path], T]) -> dict[str, list[T]]:
    """Return the tasks of a folder by split.

    It contains one folder for each task, or the folders ``train`` and ``test`` with such folders. Without a
    folder ``test``, one task in ten is held out. A folder that is a task itself is the only task, in both
    splits.

    Args:
        env: name of the environment, for error messages.
        place: the folder.
        mark: the file that identifies a task's folder.
        read: function that reads a task.

    Raises:
        UserError: the folder does not exist, or a folder in it is not a task.
    """
    folder = Path(place)
    told = f"{env}: env_options.tasks={place}"
    if not folder.is_dir():
        raise UserError(f"{told}: the folder does not exist")
    if (folder / mark).is_file():
        return {"train": [read(folder)], "test": [read(folder)]}
    train = folder / "train" if (folder / "train").is_dir() else folder
    tasks = [read(task) for task in _folders(train, mark, told)]
    if train != folder and (folder / "test").is_dir():
        return {"train": tasks, "test": [read(task) for task in _folders(folder / "test", mark, told)]}
    first, held = divided(tasks)
    return {"train": first, "test": held or first}


def read_files(folder: Path, told: str) -> dict[str, str]:
    """Return the text files below a folder, by relative path.

    Raises:
        UserError: there is a link, a file that is not UTF-8, or more than LARGEST bytes.
    """
    found: dict[str, str] = {}
    size = 0
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise UserError(f"{told}: {path} is a link; replace it with the file")
        if not path.is_file() or "__pycache__" in path.parts:
            continue
        size += path.stat().st_size
        if size > LARGEST:
            raise UserError(f"{told}: {folder} has more than {LARGEST:,} bytes")
        found[name] = read_text(path, told)
    return found


def read_text(path: Path, told: str) -> str:
    """Return a file's text; raises UserError if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise UserError(f"{told} has no {path.name}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{told}: {path} cannot be read as UTF-8: {error}") from error


def _folders(folder: Path, mark: str, told: str) -> list[Path]:
    folders = (path for path in folder.iterdir() if path.is_dir())
    found = sorted(path for path in folders if not path.name.startswith((".", "_")))
    if not found:
        raise UserError(f"{told}: {folder} contains no folder of a task (one with {mark})")
    for task in found:
        if not (task / mark).is_file():
            raise UserError(f"{told}: {task} has no {mark}, which each task needs; fix or remove it")
    return found
