"""What pip is told of areal: its name there, which only one place says."""

from __future__ import annotations

import re
import tomllib

from pages import ROOT

from areal.errors import DISTRIBUTION, install_hint

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TEXTS = [
    *ROOT.glob("*.md"),
    *(
        path
        for folder in ("areal", "benchmarks", "docs", "examples", "scripts", "tests")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix in ("", ".md", ".py", ".sh", ".toml")
    ),
]


def test_the_name_that_pip_knows():
    assert PROJECT["name"] == DISTRIBUTION != "areal", "that one is another program on PyPI"
    template = tomllib.loads((ROOT / "areal/authoring/template/pyproject.toml").read_text())
    assert template["project"]["dependencies"] == [DISTRIBUTION]


def test_what_is_told_to_be_installed_is_ours():
    named = [
        (path.relative_to(ROOT), found)
        for path in TEXTS
        for found in re.findall(r"[\w.-]*\bareal[\w-]*(?=\[[a-z])", path.read_text(encoding="utf-8"))
    ]
    assert {name for _, name in named} == {DISTRIBUTION}, named


def test_each_extra_that_is_told_exists():
    extras = set(PROJECT["optional-dependencies"])
    told = {
        extra
        for path in TEXTS
        for found in re.findall(
            rf"(?:{DISTRIBUTION}\[|install_hint\([\"'])([a-z0-9-]+)", path.read_text(encoding="utf-8")
        )
        for extra in found.split(",")
    }
    assert told - extras == set()
    assert install_hint("data") == f"pip install '{DISTRIBUTION}[data]'"
