"""Gymnasium environments over text."""

from __future__ import annotations


def register_builtin() -> None:
    """Make the built-in environments known to Gymnasium; ``import areal`` calls this."""
    from gymnasium.envs.registration import register, registry

    for name, entry_point in (
        ("math-v1", "areal.envs.math:MathEnv"),
        ("code-v1", "areal.envs.code:CodeEnv"),
    ):
        if name not in registry:
            register(id=name, entry_point=entry_point)
