"""Modules beside this file, shared by tests of several layers, can be imported by name."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

sys.path.insert(0, str(Path(__file__).parent))

# How long an example takes says more of the machine than of the code.
settings.register_profile("areal", deadline=None)
settings.load_profile("areal")

ONE_AFTER_THE_OTHER = {
    "tests/integration/": "engine",
    "tests/end_to_end/": "engine",
    "tests/soak/": "engine",
    "tests/sandbox/test_naive_graders.py": "naive graders",
    "tests/unit/test_built.py": "built",
    "tests/unit/test_ray.py": "ray",
    "tests/unit/test_view_browser.py": "browser",
}
"""Tests, by how their ids begin, that one process runs, of the several of scripts/test, and its group."""


class Scheduling(LoadScopeScheduling):
    """Any process takes the next test, or the next tests that belong together.

    xdist's own groups (by a marker, ``--dist loadgroup``) are lost, without a word, with pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        found = (group for start, group in ONE_AFTER_THE_OTHER.items() if nodeid.startswith(start))
        return next(found, nodeid)


@pytest.hookimpl(optionalhook=True)  # a debugger is used without xdist
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Scheduling:
    return Scheduling(config, log)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run tests, too, that take minutes each")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("long") and not config.getoption("--long"):
            item.add_marker(pytest.mark.skip(reason="takes minutes: scripts/test --long runs it"))
        if {"integration", "end_to_end", "soak"} & set(item.path.parts):
            item.add_marker(pytest.mark.engine)
