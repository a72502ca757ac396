"""A server of openenv_server.py, for tests."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from until import HANG


@contextmanager
def openenv_server(down: Path | None = None) -> Iterator[str]:
    """Serve, and give the address; skip where OpenEnv's package is not installed.

    Args:
        down: a file, perhaps; a server that has died comes back once there is none.
    """
    pytest.importorskip("openenv", reason="openenv-core is not installed")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = [sys.executable, str(Path(__file__).with_name("openenv_server.py")), str(port)]
    words += [] if down is None else [str(down)]
    process = subprocess.Popen(words, start_new_session=True)
    try:
        end = time.monotonic() + HANG
        while not _listens(port):
            assert process.poll() is None, "the server ended"
            assert time.monotonic() < end, "the server does not listen"
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False
