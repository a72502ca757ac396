"""Where verifiers is installed, for tests: in an environment of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

TASKS = Path(__file__).with_name("verifiers_tasks")


def verifiers_python(monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the interpreter, which finds the tasksets beside this file; skip where there is none."""
    python = os.environ.get("AREAL_TEST_VERIFIERS")
    if not python:
        pytest.skip("AREAL_TEST_VERIFIERS names no interpreter of an environment with verifiers and uv")
    monkeypatch.setenv("PYTHONPATH", str(TASKS))
    return python
