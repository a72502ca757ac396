"""Checkpoints of a learner on hosts that do not share the run directory with the run's process.

A rank on such a host writes its part of a checkpoint into a local folder, with the run directory's name. The
run's process copies all parts into the run directory, checks their digests, and gives the checkpoint its
name. To resume, it copies the learner's part of a checkpoint to those hosts. The run directory is therefore
always complete, and nothing remains on the others.

Nothing is lost if a folder is shared after all, but seen too late, because copies have their own names.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from areal import disk
from areal.errors import LearnerLost, UserError, WorkerLost
from areal.placement.placement import Placement
from areal.workers.cluster import Cluster

T = TypeVar("T")

_DELAY = 10.0
"""Seconds after which all hosts of a shared folder see a new file."""
_CHUNK = 2**25
"""Number of bytes that are copied at a time."""
_PARTIAL = ".partial-"


def gathering_of(
    cluster: Cluster, placement: Placement, run_directory: Path, patience: float = _DELAY
) -> Gathering | None:
    """Find the learner's hosts that do not share the run directory, and create folders for its parts there.

    Args:
        patience: seconds after which a host counts as not sharing it.

    Returns:
        An object that copies checkpoints; None: all hosts share the directory, and each rank writes into it.

    Raises:
        UserError: a host cannot write to the folder.
    """
    hosts = list(dict.fromkeys(rank.host for rank in placement.ranks))
    sign = run_directory.absolute() / f".shared-{secrets.token_hex(8)}"
    sign.touch()
    try:
        with ThreadPoolExecutor(len(hosts)) as threads:
            shared = list(
                threads.map(lambda host: cluster.run(host, _shares, str(sign), host, patience), hosts)
            )
    finally:
        sign.unlink()
    apart = [host for host, shares in zip(hosts, shared, strict=True) if not shares]
    return Gathering(cluster, apart, run_directory.absolute()) if apart else None


class Gathering:
    """Copies checkpoints from and to the hosts that do not share the run directory.

    Attributes:
        hosts: the names of these hosts.
    """

    def __init__(self, cluster: Cluster, hosts: Sequence[str], run_directory: Path) -> None:
        self.hosts = list(hosts)
        self._cluster, self._folder = cluster, run_directory

    @property
    def notice(self) -> str:
        """A line for the user."""
        return (
            f"{' and '.join(self.hosts)} do not share {self._folder}, so areal copies what the learner "
            "writes there; to avoid the copies, set output=FOLDER to a folder that all hosts share"
        )

    def clear(self) -> None:
        """Remove remains of an earlier run on all hosts; no checkpoint may be in progress."""
        for folder in (self._folder, self._folder / "checkpoints"):
            self._on_all(_clear, folder)
            _clear(str(folder))

    @contextmanager
    def collected(self, partial: Path, what: str) -> Iterator[None]:
        """Complete a local folder with the contents of the hosts' folders of the same name.

        The block renames the folder; afterwards the hosts' folders are removed.

        Args:
            what: the content, for a message.

        Raises:
            DiskFull: there is no space left on this host; nothing of the folder remains.
        """
        try:
            with disk.one_line(partial.parent, what):
                self._fetch(partial)
                disk.sync_tree(partial)
            yield
        except BaseException:
            _remove(str(partial))
            raise
        finally:
            self._on_all(_remove, partial)

    def make_export(self) -> Path:
        """Create a new folder on all hosts, for the final model."""
        folder = self._folder / f"{_PARTIAL}export-{secrets.token_hex(8)}"
        self._on_all(_make, folder)
        folder.mkdir(exist_ok=True)
        return folder

    def send(self, checkpoint: Path) -> Path:
        """Send the learner's part of a checkpoint to the hosts; return its path there."""
        copy = self._folder / "checkpoints" / f"{_PARTIAL}copy-{secrets.token_hex(8)}"
        source = checkpoint / "learner"
        for name, size in _sizes(str(source)).items():
            for at in range(0, size, _CHUNK):
                content = _read(str(source / name), at, _CHUNK)
                for host in self.hosts:
                    self._run(host, _append, str(copy / "learner" / name), content)
        return copy

    def drop(self, copy: Path) -> None:
        """Remove the copies of :meth:`send`."""
        self._on_all(_remove, copy)

    def _fetch(self, folder: Path) -> None:
        """Copy the hosts' files of a folder, except those that already exist here."""
        for host in self.hosts:
            for name, size in self._run(host, _sizes, str(folder)).items():
                path = folder / name
                if path.exists():
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                with path.open("wb") as file:
                    for at in range(0, size, _CHUNK):
                        file.write(self._run(host, _read, str(path), at, _CHUNK))

    def _run(self, host: str, function: Callable[..., T], *args: Any) -> T:
        """Call a function on a host that the learner cannot do without."""
        try:
            return self._cluster.run(host, function, *args)
        except WorkerLost as lost:
            raise LearnerLost(str(lost)) from lost

    def _on_all(self, function: Callable[..., None], *paths: Path) -> None:
        """Call a function on all hosts concurrently."""
        with ThreadPoolExecutor(len(self.hosts)) as threads:
            list(threads.map(lambda host: self._run(host, function, *map(str, paths)), self.hosts))


def _shares(sign: str, host: str, patience: float) -> bool:
    """Return whether this host sees a file of the run's process; if so, it has a folder for checkpoints."""
    path, deadline = Path(sign), time.monotonic() + patience
    while not path.exists() and time.monotonic() < deadline:
        with suppress(OSError):
            os.listdir(path.parent)  # makes NFS look again
        time.sleep(0.25)
    found, own = path.exists(), path.with_name(f"{path.name}-{host}")
    try:
        (path.parent / "checkpoints").mkdir(parents=True, exist_ok=True)
        own.touch()
        own.unlink()
    except OSError as error:
        raise UserError(
            f"host {host} cannot write to {path.parent} ({os.strerror(error.errno or 0)}), where the "
            "learner writes checkpoints; choose another folder with output=FOLDER"
        ) from error
    return found


def _sizes(folder: str) -> dict[str, int]:
    """Return the sizes of all files below a folder, by relative path."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}


def _read(path: str, at: int, size: int) -> bytes:
    with open(path, "rb") as file:
        file.seek(at)
        return file.read(size)


def _append(path: str, content: bytes) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        file.write(content)


def _make(folder: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)


def _remove(folder: str) -> None:
    shutil.rmtree(folder, ignore_errors=True)


def _clear(folder: str) -> None:
    for left_over in Path(folder).glob(f"{_PARTIAL}*"):
        _remove(str(left_over))
