"""Tests may share what stands beside them; one that fails leaves the others alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def nothing_outlives_a_failure(request: pytest.FixtureRequest) -> Iterator[None]:
    """Kill what a test started that fails, so that those after it speak of themselves.

    What wider fixtures started stays: they come before this one.
    """
    before, failed = children(), request.session.testsfailed
    yield
    if request.session.testsfailed > failed:
        for child in children() - before:
            with suppress(psutil.NoSuchProcess):
                child.kill()


def children() -> set[psutil.Process]:
    return set(psutil.Process().children(recursive=True))
