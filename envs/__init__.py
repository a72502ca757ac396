"""Gymnasium environments over text."""

from __future__ import annotations

from typing import Any

_BUILTIN: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("math-v1", "areal.envs.math:MathEnv", {}),
    ("code-v1", "areal.envs.code:CodeEnv", {}),
    ("code-fix-v1", "areal.envs.code:CodeEnv", {"max_turns": 3}),
    ("countdown-v1", "areal.envs.countdown:CountdownEnv", {}),
    ("guess-v1", "areal.envs.guess:GuessEnv", {}),
    ("data-v1", "areal.envs.from_data:DataEnv", {}),
    ("mixture-v1", "areal.envs.mixture:MixtureEnv", {}),
    ("gym-text-v1", "areal.envs.gym_text:GymTextEnv", {}),
    ("reasoning-gym-v1", "areal.envs.reasoning:ReasoningGymEnv", {}),
    ("repo-v1", "areal.envs.repo:RepoEnv", {}),
    ("harbor-v1", "areal.envs.harbor:HarborEnv", {}),
    ("textarena-v1", "areal.envs.textarena:TextArenaEnv", {}),
    ("browsergym-v1", "areal.envs.browsergym:BrowserGymEnv", {}),
    ("pettingzoo-v1", "areal.envs.pettingzoo:PettingZooEnv", {}),
    ("openenv-v1", "areal.envs.openenv:OpenEnv", {}),
    ("verifiers-v1", "areal.envs.verifiers:VerifiersEnv", {}),
)


def register_builtin() -> None:
    """Register the built-in environments with Gymnasium; ``import areal`` calls this."""
    from gymnasium.envs.registration import register, registry

    for name, entry_point, options in _BUILTIN:
        if name not in registry:
            register(id=name, entry_point=entry_point, kwargs=options)
