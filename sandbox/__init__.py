"""Sandboxes for untrusted code.

>>> from areal.sandbox import Call, Calls, Job, local_sandbox
>>> pool = local_sandbox()                                                          # doctest: +SKIP
>>> outcome = await pool.run(Job("def f(x): return x + 1", Calls((Call("f", (1,)),))))   # doctest: +SKIP
>>> outcome.status, outcome.values                                                  # doctest: +SKIP
('ok', (Returned(value=2),))
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .container import container_sandbox
    from .e2b import e2b_sandbox
    from .interface import (
        Call,
        Calls,
        Check,
        Job,
        Opaque,
        Outcome,
        Raised,
        Returned,
        Sandbox,
        SandboxLimits,
        SandboxSession,
        SandboxUnavailable,
        Script,
    )
    from .local import local_sandbox

__all__ = [
    "Call",
    "Calls",
    "Check",
    "Job",
    "Opaque",
    "Outcome",
    "Raised",
    "Returned",
    "Sandbox",
    "SandboxLimits",
    "SandboxSession",
    "SandboxUnavailable",
    "Script",
    "container_sandbox",
    "e2b_sandbox",
    "local_sandbox",
]

_MODULES = {"local_sandbox": "local", "container_sandbox": "container", "e2b_sandbox": "e2b"}


def __getattr__(name: str) -> Any:
    """Import the public names on first use, because the processes that run the code import this package,
    too."""
    if name not in __all__:
        raise AttributeError(f"module 'areal.sandbox' has no attribute {name!r}")
    module = importlib.import_module(f".{_MODULES.get(name, 'interface')}", __name__)
    return getattr(module, name)
