"""One registry each for environments, agents, rewards, verifiers, sandboxes and benchmarks.

Environments live in Gymnasium's own registry (so that ``gymnasium.make`` finds them); the others are
plain tables from a name to an object. All take third-party entries through entry points of the same
name: ``areal.envs``, ``areal.agents``, ``areal.rewards``, ``areal.verifiers``, ``areal.sandboxes``,
``areal.benchmarks``.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from areal.errors import EnvironmentFailure, UserError, explained, nearest

if TYPE_CHECKING:
    from areal.evaluation.benchmark import Benchmark

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to objects of one kind; an object may be given as ``"module:attribute"`` and is imported late."""

    def __init__(self, kind: str, group: str, builtin: dict[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._entries: dict[str, T | str] = dict(builtin)
        self._packages: dict[str, str] = {}
        self._refused: dict[str, str] = {}
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
            UserError: no such name (the message suggests the nearest one), two things of that name, or one
                that cannot be loaded.
        """
        self._discover()
        if name in self._refused:
            raise UserError(self._refused[name])
        if name not in self._entries:
            known = ", ".join(self.names())
            raise UserError(f"unknown {self.kind} '{name}'{nearest(name, self._entries)} (known: {known})")
        value = self._entries[name]
        if isinstance(value, str):
            loaded: T = _load_entry(f"{self.kind} '{name}'", value, self._packages.get(name))
            self._entries[name] = value = loaded
        return value

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        for name, value, package in _installed(self.group):
            taken = self._entries.setdefault(name, value)
            if taken == value:
                self._packages.setdefault(name, package)
            else:
                self._refused[name] = _two_of(
                    self.kind, name, _place(taken), self._packages.get(name), value, package
                )


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
verifiers: Registry[Callable[..., Any]] = Registry(
    "verifier",
    "areal.verifiers",
    {
        "exact": "areal.rewards.verifiers:exact",
        "math": "areal.rewards.verifiers:math",
        "number": "areal.rewards.verifiers:number",
    },
)
benchmarks: Registry[Benchmark] = Registry(
    "benchmark",
    "areal.benchmarks",
    {
        name: f"areal.evaluation.catalogue:{name.upper()}"
        for name in (
            "gsm8k",
            "math500",
            "aime24",
            "aime25",
            "amc23",
            "humaneval",
            "mbpp",
            "livecodebench",
        )
    },
)


def _installed(group: str) -> list[tuple[str, str, str]]:
    """Return what installed packages give to a group of entry points: name, value and package of each."""
    return [(p.name, p.value, p.dist.name if p.dist else "?") for p in entry_points(group=group)]


def _two_of(kind: str, name: str, old: str, old_package: str | None, new: str, new_package: str) -> str:
    """Return the complaint about two entries of one name."""
    whose = f"of the package {old_package}" if old_package else "registered already"
    return (
        f"the {kind} '{name}' is there twice: {old}, {whose}, and {new} of the package {new_package}; rename "
        "one in its pyproject.toml, or uninstall one"
    )


def _load_entry(what: str, value: str, package: str | None) -> Any:
    """Load what a registry, or a package's entry point, says in the form ``module:attribute``."""
    try:
        return load_object(value)
    except UserError as error:
        if package is None:
            raise UserError(f"{what} cannot be loaded: {error}") from error
        raise UserError(
            f"{what} of the package {package} cannot be loaded: {error}; mend it, or the entry point in "
            "its pyproject.toml, and install it again"
        ) from error


def find_agent(name: str) -> Callable[..., Any]:
    """Return a registered agent, or the object that ``path/to/file.py:Name`` or ``module:Name`` means.

    Raises:
        UserError: there is none.
    """
    if name.endswith(".py"):
        raise _name_what_is_in(name, "agent", lambda v: hasattr(v, "run") or inspect.iscoroutinefunction(v))
    return load_object(name) if ":" in name else agents.get(name)


def load_object(name: str) -> Any:
    """Return the object that ``path/to/file.py:Name`` or ``module:Name`` means.

    Raises:
        UserError: no such file or module, or nothing of that name in it, or it raises when it is loaded.
    """
    place, _, attribute = name.rpartition(":")
    module = _module(place, name)
    if not hasattr(module, attribute):
        known = [known for known in vars(module) if not known.startswith("_")]
        raise UserError(f"'{name}': {place} has no '{attribute}'{nearest(attribute, known)}")
    return getattr(module, attribute)


def _module(place: str, name: str) -> Any:
    """Return a module that ``name`` says, by its file or its own name."""
    try:
        return _load_file(Path(place)) if place.endswith(".py") else _import(place, name)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"'{name}': {place} raised {explained(error, __file__)}") from error


def _name_what_is_in(file: str, what: str, wanted: Callable[[Any], bool]) -> UserError:
    """Return the complaint about a file that was named alone, with what it has of a kind."""
    module = _module(file, file)
    found = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_") and getattr(value, "__module__", "") == module.__name__ and wanted(value)
    ]
    if not found:
        return UserError(f"'{file}' has no {what}; name one that it defines, as in {file}:NAME")
    return UserError(f"name the {what} in it, as in {file}:{found[0]} (it has {', '.join(found)})")


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
    try:
        spec.loader.exec_module(module)
    except BaseException:
        if sys.modules.get(path.stem) is module:
            del sys.modules[path.stem]
        raise
    return module


def register_agent(name: str, agent: Callable[..., Any] | str) -> None:
    """Make an agent (a class, a factory, or ``"module:attribute"``) known by ``name``."""
    agents.register(name, agent)


def register_benchmark(name: str, benchmark: Benchmark | str) -> None:
    """Make a benchmark (or ``"module:attribute"``) known by ``name``, for ``areal eval --benchmark``."""
    benchmarks.register(name, benchmark)


def register_env(name: str, entry_point: Callable[..., Any] | str, **options: Any) -> None:
    """Make an environment known to Gymnasium and to areal.

    Args:
        name: a Gymnasium id, such as ``"my-env-v0"``.
        entry_point: the environment class, or ``"module:Class"``.
        options: default keyword arguments of the environment.

    Raises:
        UserError: the name is taken by something else.
    """
    import gymnasium

    taken = gymnasium.registry.get(name)
    if taken is not None and (_place(taken.entry_point), taken.kwargs) != (_place(entry_point), options):
        raise UserError(
            f"the environment '{name}' is already registered, as {_place(taken.entry_point)}; choose another "
            f"name for {_place(entry_point)}"
        )
    try:
        # Text environments have no rendering and end by themselves: no time limit.
        gymnasium.register(id=name, entry_point=entry_point, kwargs=options, additional_wrappers=())
    except gymnasium.error.Error as error:
        raise UserError(f"'{name}' cannot name an environment: {' '.join(str(error).split())}") from error


def env_names() -> list[str]:
    """Return the ids of all areal environments: built in, from entry points, and registered here."""
    import gymnasium

    _, refused = _discover_envs()
    known = {
        spec.id
        for spec in gymnasium.registry.values()
        if not _place(spec.entry_point).startswith(("gymnasium.", "shimmy."))
    }
    return sorted(known | set(refused))


def _place(entry_point: Any) -> str:
    """Return an entry point as ``module:Name``."""
    if isinstance(entry_point, str):
        return entry_point
    return f"{entry_point.__module__}:{getattr(entry_point, '__qualname__', entry_point)}"


@cache
def _discover_envs() -> tuple[dict[str, str], dict[str, str]]:
    """Register the environments of installed packages, once: to find them takes 10 ms and more.

    Returns:
        The package of each name; and of those that cannot be registered, why.
    """
    import gymnasium

    packages: dict[str, str] = {}
    refused: dict[str, str] = {}
    for name, value, package in _installed("areal.envs"):
        taken = gymnasium.registry.get(name)
        if taken is not None and _place(taken.entry_point) != value:
            old = _place(taken.entry_point)
            refused[name] = _two_of("environment", name, old, packages.get(name), value, package)
            continue
        try:
            register_env(name, value)
            packages[name] = package
        except UserError as error:
            refused[name] = f"{error} (of the package {package})"
    return packages, refused


def find_env(name: str) -> Any:
    """Return the Gymnasium specification of an environment; its ``entry_point`` is ready to be called.

    Args:
        name: an id; ``path/to/file.py:Class`` or ``module:Class``; a YAML file (areal.envs.files); or the
            folder of a package that need not be installed (``areal env init`` writes one).

    Raises:
        UserError: there is none, or what the name means cannot be loaded.
    """
    import gymnasium
    from gymnasium.envs.registration import EnvSpec

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
        raise _name_what_is_in(
            name, "environment", lambda v: inspect.isclass(v) and issubclass(v, gymnasium.Env)
        )
    if ":" in name:
        return EnvSpec(env_label(name), _checked_env(name, load_object(name)))
    if (Path(name) / "pyproject.toml").is_file():
        return _in_package(Path(name))
    known = env_names()
    raise UserError(f"unknown environment '{name}'{nearest(name, known)} (see `areal env list`)")


def env_label(name: str) -> str:
    """Return what an environment is called in metrics and names: of a file, the class or the file's stem."""
    place, _, attribute = name.rpartition(":")
    label = attribute if place else Path(name).stem if name.endswith((".yaml", ".yml")) else Path(name).name
    return re.sub(r"[^\w.-]", "-", label) or "env"


def _loaded(spec: Any, package: str | None) -> Any:
    """Return a specification whose entry point is imported."""
    if not isinstance(spec.entry_point, str):
        return spec
    found = _load_entry(f"environment '{spec.id}'", spec.entry_point, package)
    return replace(spec, entry_point=_checked_env(spec.entry_point, found))


def _checked_env(name: str, found: Any) -> Any:
    """Return a class that is an environment, or a function that makes one."""
    import gymnasium

    if not callable(found) or (inspect.isclass(found) and not issubclass(found, gymnasium.Env)):
        raise UserError(f"'{name}' is no environment; make it a subclass of gymnasium.Env")
    return found


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
            f'{file} names {len(points)} environments under [project.entry-points."areal.envs"]; install the '
            "package (pip install -e) and give the id of one"
        )
    if (place := str(folder.resolve())) not in sys.path:
        sys.path.append(place)
    ((name, entry_point),) = points.items()
    return _loaded(EnvSpec(name, entry_point), str(folder))


def make_env(name: str, **options: Any) -> Any:
    """Build one environment; :func:`find_env` says what its name may be.

    Raises:
        UserError: no such environment, or options that it does not take.
        EnvironmentFailure: its constructor raised.
    """
    import gymnasium

    spec = find_env(name)
    _check_options(name, spec, options)
    try:
        # As a part of the specification: an option may be called as one of make's own arguments.
        return gymnasium.make(replace(spec, kwargs={**spec.kwargs, **options}), disable_env_checker=True)
    except (UserError, EnvironmentFailure):
        raise
    except Exception as error:
        if isinstance(error, TypeError) and "inherit from the gymnasium.Env" in str(error):
            raise UserError(f"'{name}' is no environment: it makes no gymnasium.Env") from error
        raise EnvironmentFailure(
            f"environment '{name}' cannot be made: it raised {explained(error, __file__)}"
        ) from error


def _check_options(name: str, spec: Any, options: dict[str, Any]) -> None:
    """Raise UserError where a constructor does not take options, or lacks some."""
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
            raise UserError(f"environment '{name}' needs the option '{option}' {see}")
