"""The registries of environments, agents, rewards, verifiers, sandboxes and benchmarks.

Packages can add entries through entry points of the same names: ``areal.envs``, ``areal.agents``,
``areal.rewards``, ``areal.verifiers``, ``areal.sandboxes``, ``areal.benchmarks``.
"""

from areal.registry.environments import env_label, env_names, find_env, make_env, register_env
from areal.registry.loading import load_object
from areal.registry.tables import (
    agents,
    benchmarks,
    find_agent,
    register_agent,
    register_benchmark,
    rewards,
    sandboxes,
    verifiers,
)
from areal.registry.travel import maker_elsewhere, registered, restore

__all__ = [
    "agents",
    "benchmarks",
    "env_label",
    "env_names",
    "find_agent",
    "find_env",
    "load_object",
    "make_env",
    "maker_elsewhere",
    "register_agent",
    "register_benchmark",
    "register_env",
    "registered",
    "restore",
    "rewards",
    "sandboxes",
    "verifiers",
]
