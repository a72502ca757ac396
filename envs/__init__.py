"""Gymnasium environments over text."""

from __future__ import annotations


def register_builtin() -> None:
    """Make the built-in environments known to Gymnasium; ``import areal`` calls this."""
    from gymnasium.envs.registration import register, registry

    if "math-v1" not in registry:
        register(id="math-v1", entry_point="areal.envs.math:MathEnv")
