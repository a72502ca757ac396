"""What the sandbox's tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import areal
from areal.sandbox.interface import SandboxUnavailable
from areal.sandbox.local import local_sandbox

ROOT = Path(areal.__file__).absolute().parents[1]
# The helpers of these tests are modules beside them, and one of the benchmarks'.
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "benchmarks")]

# areal without its __init__, which needs packages that the system's interpreter has not.
BARE = (
    "import sys, types; package = sys.modules['areal'] = types.ModuleType('areal'); "
    f"package.__path__ = [{str(ROOT / 'areal')!r}]\n"
)
RUN_SCRIPT = "import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
NOBODY = 65534


@pytest.fixture(scope="session")
def sandbox():
    """A strong local sandbox for one run at a time; skipped, visibly, where the host gives none."""
    pool = local_sandbox(1)
    try:
        pool.backend.level  # noqa: B018 - it starts the first zygote
    except SandboxUnavailable as error:
        pytest.skip(str(error))
    yield pool
    pool.close_blocking()


@pytest.fixture(scope="session")
def as_nobody():
    """Run one of this folder's scripts, or a command, as a user without rights; return its output."""
    if os.geteuid() != 0:
        pytest.skip("only root can become nobody; these tests are running as a plain user already")

    def run_with(python: str, *arguments: str, timeout: float = 300) -> str:
        if arguments[0] == "-c":
            arguments = ("-c", BARE + arguments[1], *arguments[2:])
        else:
            arguments = ("-c", BARE + RUN_SCRIPT, *arguments)
        done = subprocess.run(
            [python, *arguments],
            env={"PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"},
            cwd="/",
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    for candidate in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        try:
            run_with(
                candidate,
                "-c",
                "import sys; assert sys.version_info >= (3, 11); import areal.sandbox",
                timeout=30,
            )
        except (OSError, AssertionError):
            continue
        return partial(run_with, candidate)
    pytest.skip("no interpreter here that nobody may run with this source tree")
