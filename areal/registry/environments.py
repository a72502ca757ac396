"""Environments by name, in Gymnasium's own registry, so that ``gymnasium.make`` finds them."""

from __future__ import annotations

import inspect
import re
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from areal.errors import EnvironmentFailure, UserError, explained, nearest
from areal.registry.loading import load_entry, load_module, load_object, name_what_is_in
from areal.registry.tables import entry_name, installed, two_of

_VERSIONED = re.compile(r"-v\d+$")
"""The suffix of Gymnasium ids; Python names cannot end with it."""


def register_env(name: str, entry_point: Callable[..., Any] | str, **options: Any) -> None:
    """Register an environment with Gymnasium and areal.

    Args:
        name: a Gymnasium id, such as ``"my-env-v0"``.
        entry_point: the environment class, or ``"module:Class"``.
        options: default keyword arguments of the environment.

    Raises:
        UserError: another environment has the name.
    """
    import gymnasium

    taken, wanted = gymnasium.registry.get(name), entry_name(entry_point)
    if taken is not None and (entry_name(taken.entry_point), taken.kwargs) != (wanted, options):
        raise UserError(
            f"the environment '{name}' is already registered, as {entry_name(taken.entry_point)}; choose "
            f"another name for {wanted}"
        )
    try:
        # Text environments have no rendering and end by themselves: no time limit.
        gymnasium.register(id=name, entry_point=entry_point, kwargs=options, additional_wrappers=())
    except gymnasium.error.Error as error:
        raise UserError(
            f"'{name}' is not a valid name of an environment: {' '.join(str(error).split())}"
        ) from error


def env_names() -> list[str]:
    """Return the ids of all environments: built-in, from entry points, and registered in this process."""
    import gymnasium

    _, refused = _discover_envs()
    known = {
        spec.id
        for spec in gymnasium.registry.values()
        if not entry_name(spec.entry_point).startswith(("gymnasium.", "shimmy."))
    }
    return sorted(known | set(refused))


def find_env(name: str) -> Any:
    """Return the Gymnasium specification of an environment, whose ``entry_point`` is callable.

    Args:
        name: an id; ``path/to/file.py:Class`` or ``module:Class``; ``module:id`` of an environment that a
            module registers with Gymnasium; a YAML file (areal.envs.files); or the folder of a package
            (``areal env init`` writes one). A function that creates an environment may replace the class. The
            package need not be installed. Other objects with ``reset`` and ``step`` are adapted
            (areal.envs.adapted).

    Raises:
        UserError: there is no such environment, or it cannot be loaded.
    """
    import gymnasium
    from gymnasium.envs.registration import EnvSpec

    from areal.envs.adapted import acts

    packages, refused = _discover_envs()
    if name in refused:
        raise UserError(refused[name])
    if name in gymnasium.registry:
        return _loaded(gymnasium.registry[name], packages.get(name))
    if name.endswith((".yaml", ".yml")):
        from areal.envs.files import read_env_file

        base, options = read_env_file(Path(name))
        found = find_env(base)
        return EnvSpec(env_label(name), found.entry_point, kwargs={**found.kwargs, **options})
    if name.endswith(".py"):
        raise name_what_is_in(name, "environment", lambda v: inspect.isclass(v) and acts(v))
    place, _, last = name.rpartition(":")
    if place and _VERSIONED.search(last):  # Gymnasium's own form of an id that a module registers
        load_module(place, name)
        if last in gymnasium.registry:
            return _loaded(gymnasium.registry[last], None)
        raise UserError(f"{place} registers no environment '{last}'{nearest(last, gymnasium.registry)}")
    if place:
        return EnvSpec(env_label(name), _checked_env(name, load_object(name)))
    if (Path(name) / "pyproject.toml").is_file():
        return _in_package(Path(name))
    known = env_names()
    told = "see `areal env list`"
    if _VERSIONED.search(name):
        told += f"; to use one of another package, give its module, too: MODULE:{name}"
    raise UserError(f"unknown environment '{name}'{nearest(name, known)} ({told})")


def make_env(name: str, **options: Any) -> Any:
    """Create an environment; :func:`find_env` documents its name.

    Raises:
        UserError: no such environment, or options that it does not accept.
        EnvironmentFailure: its constructor raised.
    """
    import gymnasium

    spec = find_env(name)
    _check_options(name, spec, options)
    try:
        # In the specification, because an option may have the name of one of make's own arguments.
        return gymnasium.make(replace(spec, kwargs={**spec.kwargs, **options}), disable_env_checker=True)
    except (UserError, EnvironmentFailure):
        raise
    except Exception as error:  # an environment may raise anything
        raise EnvironmentFailure(
            f"environment '{name}' cannot be created: it raised {explained(error, __file__)}"
        ) from error


def env_label(name: str) -> str:
    """Return the name of an environment for metrics and files; for a file, the class or the stem."""
    place, _, attribute = name.rpartition(":")
    label = attribute if place else Path(name).stem if name.endswith((".yaml", ".yml")) else Path(name).name
    return re.sub(r"[^\w.-]", "-", label) or "env"


@cache
def _discover_envs() -> tuple[dict[str, str], dict[str, str]]:
    """Register the environments of installed packages, once: the search takes 10 ms or more.

    Returns:
        The package of each name; and the reason for each name that cannot be registered.
    """
    import gymnasium

    packages: dict[str, str] = {}
    refused: dict[str, str] = {}
    for name, value, package in installed("areal.envs"):
        taken = gymnasium.registry.get(name)
        if taken is not None and entry_name(taken.entry_point) != value:
            old = entry_name(taken.entry_point)
            refused[name] = two_of("environment", name, old, packages.get(name), value, package)
            continue
        try:
            register_env(name, value)
            packages[name] = package
        except UserError as error:
            refused[name] = f"{error} (of the package {package})"
    return packages, refused


def _loaded(spec: Any, package: str | None) -> Any:
    """Return a specification with an imported entry point."""
    found, name = spec.entry_point, spec.id
    if isinstance(found, str):
        name, found = found, load_entry(f"environment '{spec.id}'", found, package)
    return replace(spec, entry_point=_checked_env(name, found))


def _checked_env(name: str, found: Any) -> Any:
    """Return a callable that creates a Gymnasium environment: a class, or a function that adapts others."""
    import gymnasium

    from areal.envs.adapted import acts, adapting

    if inspect.isclass(found) and issubclass(found, gymnasium.Env):
        return found
    if not inspect.isclass(found) and acts(found):
        raise UserError(
            f"'{name}' creates one environment, but several are needed at the same time; name its class, or "
            "a function that creates one"
        )
    if not callable(found) or (inspect.isclass(found) and not acts(found)):
        raise UserError(
            f"'{name}' is not an environment; make it a subclass of gymnasium.Env, or give it reset and step"
        )
    return adapting(name, found)


def _in_package(folder: Path) -> Any:
    """Return the only environment of the package in a folder, which need not be installed."""
    from gymnasium.envs.registration import EnvSpec

    file = folder / "pyproject.toml"
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not valid TOML: {error}") from error
    points = project.get("entry-points", {}).get("areal.envs", {})
    if len(points) != 1:
        raise UserError(
            f'{file} names {len(points)} environments under [project.entry-points."areal.envs"]; install '
            "the package (pip install -e) and give the id of one"
        )
    if (place := str(folder.resolve())) not in sys.path:
        sys.path.append(place)
    ((name, entry_point),) = points.items()
    return _loaded(EnvSpec(name, entry_point), str(folder))


def _check_options(name: str, spec: Any, options: dict[str, Any]) -> None:
    """Raise UserError if a constructor does not accept the options, or lacks required ones."""
    parameters = inspect.signature(spec.entry_point).parameters.values()
    known = {p.name: p for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    given = {**spec.kwargs, **options}
    see = f"(see `areal env show {name}`)"
    if len(known) == len(parameters):
        for option in given:
            if option not in known:
                raise UserError(
                    f"environment '{name}' has no option '{option}'{nearest(option, known)} {see}"
                )
    for option, parameter in known.items():
        if parameter.default is parameter.empty and option not in given:
            raise UserError(f"environment '{name}' requires the option '{option}' {see}")
