"""areal: fully asynchronous reinforcement learning for language-model agents.

``import areal`` registers the environments with Gymnasium, and is light: torch and vLLM are imported only
when something needs them.

>>> import areal
>>> run = areal.train(env="math-v1", steps=20)   # doctest: +SKIP
>>> run.accuracy_before, run.accuracy_after      # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from areal.envs import register_builtin

if TYPE_CHECKING:
    from areal.api import evaluate, evaluate_benchmarks, export, replay, train
    from areal.registry import register_agent, register_benchmark, register_env

__version__ = "0.1.0"
__all__ = [
    "__version__",
    "evaluate",
    "evaluate_benchmarks",
    "export",
    "register_agent",
    "register_benchmark",
    "register_env",
    "replay",
    "train",
]

register_builtin()

_LAZY = {
    "evaluate": "areal.api",
    "evaluate_benchmarks": "areal.api",
    "export": "areal.api",
    "replay": "areal.api",
    "train": "areal.api",
    "register_agent": "areal.registry",
    "register_benchmark": "areal.registry",
    "register_env": "areal.registry",
}


def __getattr__(name: str) -> Any:
    """Import the public functions on first use, so that ``import areal`` stays fast."""
    if name not in _LAZY:
        raise AttributeError(f"module 'areal' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_LAZY[name]), name)
