"""Processes that areal starts leave nothing behind, however they end."""

from __future__ import annotations

import multiprocessing
import os
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from areal.lifetime import die_with


def named_semaphores() -> list[str]:
    """Return the names in /dev/shm of the semaphores that this process has open."""
    mapped = {line.split()[4] for line in Path("/proc/self/maps").read_text().splitlines()}
    found = [entry for entry in os.scandir("/dev/shm") if entry.name.startswith("sem.mp-")]
    return [entry.name for entry in found if str(entry.inode()) in mapped]


def with_a_progress_bar(parent: int | None, pipe: Connection) -> None:
    if parent is not None:
        die_with(parent)
    from tqdm.auto import tqdm

    list(tqdm(range(2)))
    pipe.send(len(named_semaphores()))


@pytest.mark.parametrize(("parent", "names"), [(os.getpid(), 0), (None, 1)], ids=["ours", "others"])
def test_a_progress_bar_makes_no_semaphore_that_a_killed_process_would_leave(parent, names):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=with_a_progress_bar, args=(parent, theirs))
    process.start()
    theirs.close()
    assert ours.recv() == names
    process.join()
