"""Starts processes that end when this one ends; :mod:`areal.lifetime` is the part that they run."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any, cast

from areal.threads import CallThread

_ROOT = Path(__file__).absolute().parents[1]
"""The folder from which areal is imported."""


def main_of(module: str) -> str:
    """Return Python code that runs ``main()`` of a module of areal.

    It imports the package without its ``__init__``, because such a process may lack packages that this one
    imports. Other imports also use the import path of this process, which PYTHONPATH may have set.
    """
    places = [place for place in sys.path if os.path.isabs(place)]
    return (
        "import sys, types; package = sys.modules['areal'] = types.ModuleType('areal'); "
        f"package.__path__ = [{str(_ROOT / 'areal')!r}]; "
        f"sys.path += [place for place in {[str(_ROOT), *places]!r} if place not in sys.path]; "
        f"from {module} import main; main()"
    )


class _Starter:
    """A thread that lasts as long as this process; a forked process has its own."""

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._thread: CallThread | None = None

    def thread(self) -> CallThread:
        with self._lock:
            self._thread = self._thread or CallThread("areal-starts")
            return self._thread


_starter = _Starter()


def start_process(arguments: list[str], **options: Any) -> subprocess.Popen[bytes]:
    """Start a process from a lasting thread, so that it can ask the kernel to be killed with its parent.

    Args:
        arguments: the command.
        options: keyword arguments of :class:`subprocess.Popen`.

    Raises:
        OSError: this host has no more processes, descriptors or memory.
    """
    process, error = _starter.thread().start(partial(subprocess.Popen, arguments, **options)).result()
    if error is not None:
        raise error
    return cast("subprocess.Popen[bytes]", process)
