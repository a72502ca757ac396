"""Loads objects by name: ``module:attribute`` or ``path/to/file.py:Name``."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from areal.errors import UserError, explained, nearest


def load_object(name: str) -> Any:
    """Return the object named ``path/to/file.py:Name`` or ``module:Name``.

    Raises:
        UserError: the file or module does not exist, has no such name, or raises an exception.
    """
    place, _, attribute = name.rpartition(":")
    module = load_module(place, name)
    if not hasattr(module, attribute):
        known = [known for known in vars(module) if not known.startswith("_")]
        raise UserError(f"'{name}': {place} has no '{attribute}'{nearest(attribute, known)}")
    return getattr(module, attribute)


def load_entry(what: str, value: str, package: str | None) -> Any:
    """Load the object that a registry, or the entry point of a package, gives as ``module:attribute``."""
    try:
        return load_object(value)
    except UserError as error:
        if package is None:
            raise UserError(f"{what} cannot be loaded: {error}") from error
        raise UserError(
            f"{what} of the package {package} cannot be loaded: {error}; fix it, or the entry point in its "
            "pyproject.toml, and install it again"
        ) from error


def name_what_is_in(file: str, what: str, wanted: Callable[[Any], bool]) -> UserError:
    """Return the message about a file that was given without a name, with the suitable names in it."""
    module = load_module(file, file)
    found = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__ and wanted(value)
    ]
    if not found:
        return UserError(f"'{file}' has no {what}; name one that it defines, as in {file}:NAME")
    return UserError(
        f"'{file}' is a file; name the {what}, as in {file}:{found[0]} (it has {', '.join(found)})"
    )


def load_module(place: str, name: str) -> Any:
    """Return the module ``place`` of ``name``, a file or a module; raises UserError if it does not exist."""
    try:
        return _load_file(Path(place)) if place.endswith(".py") else _import(place, name)
    except UserError:
        raise
    except Exception as error:  # a module may raise anything
        raise UserError(f"'{name}': {place} raised {explained(error, __file__)}") from error


def _import(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module exists, but imports one that does not
        raise UserError(f"'{name}': the module {module} does not exist") from error
    except ValueError as error:  # an empty or a relative name
        raise UserError(f"'{name}' is not of the form path/to/file.py:Name or module:Name") from error


@cache
def _load_file(path: Path) -> Any:
    """Run a Python file as a module, once; it may import its neighbors."""
    if not path.is_file():
        raise UserError(f"the file '{path}' does not exist")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses and pickle look for it there
    if (folder := str(path.parent.resolve())) not in sys.path:
        sys.path.append(folder)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if sys.modules.get(path.stem) is module:
            del sys.modules[path.stem]
        raise
    return module
