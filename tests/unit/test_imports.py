"""Imports point one way, and no two files import each other, also not for the sake of types."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXTENDED = ("agents", "envs", "rewards", "sandbox")
"""What stands at the top of the repository, and is imported as a part of areal, by links."""

BASE = {
    "disk",
    "errors",
    "factors",
    "nf4",
    "faults",
    "host_limits",
    "images",
    "lifetime",
    "listening",
    "registry",
    "spans",
    "starting",
    "step_sizes",
    "thoughts",
    "threads",
    "trajectory",
    "waiting",
    "without_torchvision",
}
"""What everything may import."""

KNOWS: dict[str, set[str]] = {
    **{name: set() for name in BASE},
    "registry": {"envs", "evaluation"},
    "sandbox": set(),
    "rewards": {"sandbox"},
    "envs": {"rewards", "sandbox"},
    "agents": {"envs", "rewards", "sandbox"},
    "rollout": {"agents", "envs", "models"},
    "learner": {"config", "models"},
    "weights": set(),
    "workers": set(),
    "config": set(),
    "models": {"config"},
    "telemetry": {"config"},
    "evaluation": {"agents", "envs", "rollout", "telemetry"},
    "placement": {"config", "models", "weights"},
    "recipes": {"config", "models", "placement"},
    "results": {"config", "evaluation"},
    "arguments": {"config"},
    "explain": {"config", "telemetry"},
    "viewer": {"config", "evaluation", "models", "telemetry"},
}
"""Which packages each package may import, besides itself and :data:`BASE`.

Those that are not here (runtime, and the commands that use it) may import all.
"""

BUILDS = {"areal.runtime.build", "areal.runtime.early"}
"""The only files that pick how workers are started."""
LAUNCHERS = {f"areal.workers.{name}" for name in ("inline", "process", "ray")}


def read_imports(root: Path) -> dict[str, set[str]]:
    """Return the files of areal, by their modules' names, and which of them each one imports anywhere."""
    files = {}
    for path in sorted(
        [*(root / "areal").rglob("*.py"), *(p for e in EXTENDED for p in (root / e).rglob("*.py"))]
    ):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] == "areal" and parts[1] in EXTENDED:
            continue
        name = ".".join(parts if parts[0] == "areal" else ("areal", *parts))
        files[name.removesuffix(".__init__")] = path
    return {name: imported(name, path, set(files)) - {name} for name, path in files.items()}


def imported(name: str, path: Path, modules: set[str]) -> set[str]:
    """Return which of the modules the module ``name`` imports."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = [*name.split("."), *(["__init__"] if path.name == "__init__.py" else [])]
            above = parts[: -node.level] if node.level else []
            origin = ".".join([*above, *([node.module] if node.module else [])])
            within = {f"{origin}.{alias.name}" for alias in node.names}
            found |= within & modules or {origin}
    return found & modules


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    return read_imports(ROOT)


def test_no_two_files_import_each_other(imports: dict[str, set[str]]):
    assert len(imports) > 200
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(reversed(error.args[1])))


def package(module: str) -> str:
    return ".".join(module.split(".")[1:2])


def test_imports_point_one_way(imports: dict[str, set[str]]):
    assert KNOWS.keys() <= {package(module) for module in imports}
    wrong = [
        f"{module} imports {other}"
        for module, others in imports.items()
        if (of := package(module)) in KNOWS
        for other in sorted(others)
        if package(other) not in {of} | KNOWS[of] | BASE
    ]
    assert wrong == []


def test_what_a_package_may_import_it_does(imports: dict[str, set[str]]):
    used = {
        of: {package(other) for m, others in imports.items() if package(m) == of for other in others}
        for of in KNOWS
    }
    assert {of: may - used[of] for of, may in KNOWS.items() if may - used[of]} == {}, (
        "a rule that nothing needs"
    )


def test_the_placement_knows_the_names_of_backends_alone(imports: dict[str, set[str]]):
    known = {
        other for module, others in imports.items() if package(module) == "placement" for other in others
    }
    assert {other for other in known if package(other) == "weights"} == {"areal.weights.interface"}


def test_few_files_pick_how_workers_are_started(imports: dict[str, set[str]]):
    starts = {
        module for module, others in imports.items() if package(module) != "workers" and others & LAUNCHERS
    }
    assert starts <= BUILDS


def test_a_circle_is_found_wherever_it_is_written(tmp_path: Path):
    for name, text in {
        "areal/__init__.py": "",
        "areal/a.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from areal.envs import b\n",
        "envs/b.py": "def f():\n    import areal.c\n",
        "areal/c.py": "from .a import x, y\n",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    found = read_imports(tmp_path)
    assert found["areal.envs.b"] == {"areal.c"}
    with pytest.raises(pytest.fail.Exception, match=r"areal\.envs\.b"):
        test_no_two_files_import_each_other(found | {str(i): set() for i in range(200)})
