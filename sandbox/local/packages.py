"""The installed packages that runs of a sandbox can see: the requested ones, and their dependencies."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from ..interface import SandboxUnavailable

_NAME = re.compile(r"[\w.-]+")


def package_paths(modules: Sequence[str]) -> tuple[str, ...]:
    """Return the folders and files of packages, given by their import names, and of their dependencies.

    Raises:
        SandboxUnavailable: one is not installed.
    """
    wanted = [name.partition(".")[0] for name in modules]
    for name in wanted:
        if importlib.util.find_spec(name) is None:
            raise SandboxUnavailable(f"'{name}' is to be preloaded, but is not installed")
    return tuple(dict.fromkeys(path for name in _with_needs(wanted) for path in _paths(name)))


def _with_needs(modules: Sequence[str]) -> list[str]:
    """Return modules and those of the distributions that they require, if they are installed."""
    if not modules:
        return []
    providers = importlib.metadata.packages_distributions()
    provided: dict[str, list[str]] = {}
    for module, names in providers.items():
        for name in names:
            provided.setdefault(_normal(name), []).append(module)
    found = list(modules)
    for module in found:
        for name in providers.get(module, ()):
            for needed in _requirements(name):
                found += [other for other in provided.get(needed, ()) if other not in found]
    return found


def _requirements(distribution: str) -> Iterator[str]:
    for line in importlib.metadata.requires(distribution) or ():
        requirement, _, marker = line.partition(";")
        name = _NAME.match(requirement)
        if name and "extra" not in marker:
            yield _normal(name[0])


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _paths(module: str) -> Iterator[str]:
    spec = importlib.util.find_spec(module)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    yield from (path for folder in folders for path in (folder, f"{folder}.libs") if Path(path).is_dir())
    if spec and not folders and spec.origin and Path(spec.origin).is_file():
        yield spec.origin
