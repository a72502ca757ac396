"""One registry each for environments, agents, rewards, sandboxes and benchmarks.

Environments live in Gymnasium's own registry (so that ``gymnasium.make`` finds them); the others are
plain tables from a name to an object. All take third-party entries through entry points of the same
name: ``areal.envs``, ``areal.agents``, ``areal.rewards``, ``areal.sandboxes``, ``areal.benchmarks``.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from areal.errors import UserError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to objects of one kind; an object may be given as ``"module:attribute"`` and is imported late."""

    def __init__(self, kind: str, group: str, builtin: dict[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._entries: dict[str, T | str] = dict(builtin)
        self._discovered = False

    def register(self, name: str, value: T | str) -> None:
        """Add an entry.

        Raises:
            UserError: the name is taken by something else.
        """
        if name in self._entries and self._entries[name] != value:
            raise UserError(f"the {self.kind} '{name}' is already registered; choose another name")
        self._entries[name] = value

    def names(self) -> list[str]:
        """Return every known name, sorted."""
        self._discover()
        return sorted(self._entries)

    def get(self, name: str) -> T:
        """Return the object called ``name``.

        Raises:
            UserError: no such name; the message suggests the nearest one.
        """
        self._discover()
        if name not in self._entries:
            known = ", ".join(self.names())
            raise UserError(f"unknown {self.kind} '{name}'{nearest(name, self._entries)} (known: {known})")
        value = self._entries[name]
        if isinstance(value, str):
            module, _, attribute = value.partition(":")
            value = getattr(importlib.import_module(module), attribute)
            self._entries[name] = value
        return value

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        for point in entry_points(group=self.group):
            self.register(point.name, point.value)


agents: Registry[Callable[..., Any]] = Registry(
    "agent",
    "areal.agents",
    {
        "single-turn": "areal.agents.single_turn:SingleTurn",
        "multi-turn": "areal.agents.multi_turn:MultiTurn",
        "tool-use": "areal.agents.tool_use:ToolUse",
        "python-tool": "areal.agents.python_tool:PythonTool",
        "program": "areal.agents.program:Program",
    },
)
rewards: Registry[Callable[..., Any]] = Registry(
    "part of a reward",
    "areal.rewards",
    {
        "correct": "areal.rewards.parts:correct",
        "format": "areal.rewards.parts:answer_format",
        "length": "areal.rewards.parts:length",
    },
)
sandboxes: Registry[Callable[..., Any]] = Registry(
    "sandbox",
    "areal.sandboxes",
    {
        "local": "areal.sandbox.local:local_sandbox",
        "container": "areal.sandbox.container:container_sandbox",
        "e2b": "areal.sandbox.e2b:e2b_sandbox",
    },
)
benchmarks: Registry[Callable[..., Any]] = Registry("benchmark", "areal.benchmarks", {})


def find_agent(name: str) -> Callable[..., Any]:
    """Return a registered agent, or the object that ``path/to/file.py:Name`` or ``module:Name`` means.

    Raises:
        UserError: there is none.
    """
    return load_object(name) if ":" in name else agents.get(name)


def load_object(name: str) -> Any:
    """Return the object that ``path/to/file.py:Name`` or ``module:Name`` means.

    Raises:
        UserError: no such file or module, or nothing of that name in it.
    """
    place, _, attribute = name.rpartition(":")
    module = _load_file(Path(place)) if place.endswith(".py") else _import(place, name)
    if not hasattr(module, attribute):
        known = [known for known in vars(module) if not known.startswith("_")]
        raise UserError(f"'{name}': {place} has no '{attribute}'{nearest(attribute, known)}")
    return getattr(module, attribute)


def _import(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the module is there, and lacks another
        raise UserError(f"'{name}': there is no module {module}") from error
    except ValueError as error:  # an empty or a relative name
        raise UserError(f"'{name}' is not of the form path/to/file.py:Name or module:Name") from error


@cache
def _load_file(path: Path) -> Any:
    """Run a Python file as a module, once; it may import what stands beside it."""
    if not path.is_file():
        raise UserError(f"there is no file '{path}'")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # dataclasses and pickle look for it there
    if (folder := str(path.parent.resolve())) not in sys.path:
        sys.path.append(folder)
    spec.loader.exec_module(module)
    return module


def register_agent(name: str, agent: Callable[..., Any] | str) -> None:
    """Make an agent (a class, a factory, or ``"module:attribute"``) known by ``name``."""
    agents.register(name, agent)


def register_env(name: str, entry_point: Callable[..., Any] | str, **options: Any) -> None:
    """Make an environment known to Gymnasium and to areal.

    Args:
        name: a Gymnasium id, such as ``"my-env-v0"``.
        entry_point: the environment class, or ``"module:Class"``.
        options: default keyword arguments of the environment.
    """
    import gymnasium

    gymnasium.register(
        id=name,
        entry_point=entry_point,
        kwargs=options,
        # Text environments have no rendering and end by themselves: no time limit, no order wrapper.
        order_enforce=True,
        additional_wrappers=(),
    )


def env_names() -> list[str]:
    """Return the ids of all areal environments: built in, from entry points, and registered here."""
    import gymnasium

    _discover_envs()
    return sorted(
        spec.id
        for spec in gymnasium.registry.values()
        if not _module(spec.entry_point).startswith(("gymnasium.", "shimmy."))
    )


def _module(entry_point: Any) -> str:
    return entry_point if isinstance(entry_point, str) else getattr(entry_point, "__module__", "")


@cache
def _discover_envs() -> None:
    """Register the environments of installed packages, once: to find them takes 10 ms and more."""
    import gymnasium

    for point in entry_points(group="areal.envs"):
        if point.name not in gymnasium.registry:
            register_env(point.name, point.value)


def make_env(name: str, **options: Any) -> Any:
    """Build one environment by its id.

    Raises:
        UserError: no such environment, or options that it does not take.
    """
    import gymnasium

    _discover_envs()
    if name not in gymnasium.registry:
        known = env_names()
        raise UserError(f"unknown environment '{name}'{nearest(name, known)} (see `areal env list`)")
    try:
        return gymnasium.make(name, disable_env_checker=True, **options)
    except TypeError as error:
        if "unexpected keyword argument" in str(error):
            raise UserError(f"environment '{name}': {error} (see `areal env list`)") from error
        raise
