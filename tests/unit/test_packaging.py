"""What pip is told of areal: its name, and all that it needs."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

from pages import ROOT

from areal.errors import DISTRIBUTION, install_hint

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
BROUGHT = {
    "pydantic_core": "pydantic's own core, released with it",
    "typing_extensions": "pydantic's own, which takes no other TypedDict before Python 3.12",
    "annotated_types": "pydantic's own, which says the bounds of its fields",
    "flash_attn": "used if installed",
}
"""What may be imported without being declared."""
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


def test_what_messages_say_to_install_is_ours():
    named = [
        (path.relative_to(ROOT), found)
        for path in TEXTS
        for found in re.findall(r"[\w.-]*\bareal[\w-]*(?=\[[a-z])", path.read_text(encoding="utf-8"))
    ]
    assert {name for _, name in named} == {DISTRIBUTION}, named


def test_each_extra_that_messages_name_exists():
    extras = set(PROJECT["optional-dependencies"])
    named = {
        extra
        for path in TEXTS
        for found in re.findall(
            rf"(?:{DISTRIBUTION}\[|install_hint\([\"'])([a-z0-9-]+)", path.read_text(encoding="utf-8")
        )
        for extra in found.split(",")
    }
    assert named - extras == set()
    assert install_hint("data") == f"pip install '{DISTRIBUTION}[data]'"


OTHER = {"browsergym": "browsergym-core"}
"""Modules of extras, which may not be installed, that are not called as their package is."""


def test_what_is_imported_is_declared():
    """Of packages that others bring along a day comes when they do not."""
    requirements = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]
    declared = {normal(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}
    distributions = packages_distributions()
    missing = {
        (module, str(path.relative_to(ROOT)))
        for folder in ("areal", "agents", "envs", "rewards", "sandbox")
        for path in (ROOT / folder).rglob("*.py")
        if "repositories" not in path.parts  # tasks of repo-v1, which import themselves
        if path.name != "verifiers_worker.py"  # it runs in an environment that areal is not installed in
        for module in imported(path)
        if not declared
        & {normal(name) for name in [*distributions.get(module, ()), OTHER.get(module, module)]}
    }
    assert missing == set()


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [node.module]
        for name in names:
            module = name.split(".")[0]
            if module not in sys.stdlib_module_names and module not in ("areal", "my_env", *BROUGHT):
                yield module


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
