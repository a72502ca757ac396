"""The notebooks are small, and that of environments does what it says.

That of results is run on the first run of tests/end_to_end/test_pages.py; that of the first run, on the
engine of tests/integration/test_examples.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from notebooks import NOTEBOOKS, execute, read

LARGEST = 150_000
"""Bytes of a notebook, with its outputs."""
WITHOUT_TRAINING = """
import areal, areal.api, areal.results, pathlib
def train(env, **settings):
    config = areal.api.resolve(None, None, {"env": env, **settings}, None)
    return areal.results.Run(pathlib.Path(), config, pathlib.Path(), [], None, None)
areal.train = train
"""
"""Training only reads its settings: to check the model, too, would take most of the test's time."""


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.iterdir()), ids=lambda path: path.name)
def test_it_is_small_and_has_been_run_in_order(path: Path):
    assert path.stat().st_size < LARGEST
    counts = [cell.execution_count for cell in read(path.name).cells if cell.cell_type == "code"]
    assert counts == list(range(1, len(counts) + 1))


def test_an_environment_is_written(tmp_path: Path):
    printed = execute("environment.ipynb", tmp_path, WITHOUT_TRAINING)
    assert "wrong: 0.0\nright: 1.0" in printed
    assert "passed solutions" in printed
