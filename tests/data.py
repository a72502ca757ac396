"""Where the tests find benchmark files, as their authors publish them; none are kept here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_FOLDERS = (os.environ.get("AREAL_TEST_DATA"), Path(__file__).parents[2] / "shared" / "data")
"""The second one lies beside the checkout."""


def data_file(name: str) -> Path:
    """Return the path of a file; the test is skipped, visibly, where there is none."""
    for folder in _FOLDERS:
        if folder is not None and Path(folder, name).exists():
            return Path(folder, name)
    pytest.skip(f"no {name}: set AREAL_TEST_DATA to a folder that has it")
