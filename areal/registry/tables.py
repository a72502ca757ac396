"""Tables from a name to an object: agents, rewards, verifiers, sandboxes and benchmarks."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from areal.errors import UserError, nearest
from areal.registry.loading import load_entry, load_object, name_what_is_in

if TYPE_CHECKING:
    from areal.evaluation.benchmark import Benchmark

T = TypeVar("T")


class Registry(Generic[T]):
    """Objects of one kind by name; an entry ``"module:attribute"`` is imported on first use."""

    def __init__(self, kind: str, group: str, builtin: dict[str, str]) -> None:
        self.kind = kind
        self.group = group
        self._entries: dict[str, T | str] = dict(builtin)
        self._packages: dict[str, str] = {}
        self._refused: dict[str, str] = {}
        self._discovered = False

    def register(self, name: str, value: T | str) -> None:
        """Add an entry; raises UserError if another object has the name."""
        if name in self._entries and self._entries[name] != value:
            raise UserError(f"the {self.kind} '{name}' is already registered; choose another name")
        self._entries[name] = value

    def entries(self) -> dict[str, T | str]:
        """Return every known name with its entry."""
        self._discover()
        return dict(self._entries)

    def restore(self, name: str, value: T | str) -> None:
        """Add an entry from another process, unless the name is known."""
        self._discover()
        self._entries.setdefault(name, value)

    def names(self) -> list[str]:
        """Return every known name, sorted."""
        self._discover()
        return sorted(self._entries)

    def get(self, name: str) -> T:
        """Return the object called ``name``.

        Raises:
            UserError: the name is unknown (the message suggests the nearest one) or not unique, or the object
                cannot be loaded.
        """
        self._discover()
        if name in self._refused:
            raise UserError(self._refused[name])
        if name not in self._entries:
            known = ", ".join(self.names())
            raise UserError(f"unknown {self.kind} '{name}'{nearest(name, self._entries)} (known: {known})")
        value = self._entries[name]
        if isinstance(value, str):
            loaded: T = load_entry(f"{self.kind} '{name}'", value, self._packages.get(name))
            self._entries[name] = value = loaded
        return value

    def _discover(self) -> None:
        if self._discovered:
            return
        self._discovered = True
        for name, value, package in installed(self.group):
            taken = self._entries.setdefault(name, value)
            if taken == value:
                self._packages.setdefault(name, package)
            else:
                self._refused[name] = two_of(
                    self.kind, name, entry_name(taken), self._packages.get(name), value, package
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
        "verifiers": "areal.agents.verifiers:Verifiers",
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
        "answer-line": "areal.rewards.verifiers:answer_line",
        "calls": "areal.rewards.calls:calls",
        "exact": "areal.rewards.verifiers:exact",
        "instructions": "areal.rewards.instructions:instructions",
        "json": "areal.rewards.verifiers:json_object",
        "math": "areal.rewards.verifiers:math",
        "number": "areal.rewards.verifiers:number",
    },
)
benchmarks: Registry[Benchmark] = Registry(
    "benchmark",
    "areal.benchmarks",
    {
        name: f"areal.evaluation.catalog:{name.upper()}"
        for name in (
            *("gsm8k", "math500", "aime24", "aime25", "aime26", "amc23"),
            *("hmmt_feb25", "hmmt_nov25", "hmmt_feb26", "minerva", "olympiadbench"),
            *("bbh", "gpqa_diamond", "mmlu", "mmlu_pro", "zebralogic"),
            *("bfcl", "ifeval"),
            *("humaneval", "humaneval_plus", "mbpp", "mbpp_plus", "livecodebench", "livecodebench_v5"),
        )
    },
)


def find_agent(name: str) -> Callable[..., Any]:
    """Return a registered agent, or the object named ``path/to/file.py:Name`` or ``module:Name``.

    Raises:
        UserError: there is no such agent.
    """
    if name.endswith(".py"):
        raise name_what_is_in(name, "agent", lambda v: hasattr(v, "run") or inspect.iscoroutinefunction(v))
    return load_object(name) if ":" in name else agents.get(name)


def register_agent(name: str, agent: Callable[..., Any] | str) -> None:
    """Register an agent (a class, a factory, or ``"module:attribute"``) under a name."""
    agents.register(name, agent)


def register_benchmark(name: str, benchmark: Benchmark | str) -> None:
    """Register a benchmark (or ``"module:attribute"``) under a name, for ``areal eval --benchmark``."""
    benchmarks.register(name, benchmark)


def installed(group: str) -> list[tuple[str, str, str]]:
    """Return the entry points of a group in installed packages: name, value and package of each.

    They are sorted by name and package, because the order of the files depends on the file system.
    """
    found = [(p.name, p.value, p.dist.name if p.dist else "?") for p in entry_points(group=group)]
    return sorted(found, key=lambda each: (each[0], each[2]))


def two_of(kind: str, name: str, old: str, old_package: str | None, new: str, new_package: str) -> str:
    """Return the message about two entries with the same name."""
    whose = f"of the package {old_package}" if old_package else "already registered"
    return (
        f"the {kind} '{name}' is defined twice: {old}, {whose}, and {new} of the package {new_package}; "
        "rename one in its pyproject.toml, or uninstall one"
    )


def entry_name(entry_point: Any) -> str:
    """Return an entry point as ``module:Name``."""
    if isinstance(entry_point, str):
        return entry_point
    return f"{entry_point.__module__}:{getattr(entry_point, '__qualname__', entry_point)}"
