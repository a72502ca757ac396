"""Sends what was registered in one process to another process of the same run.

Names of modules are sent as they are. Objects are sent with cloudpickle. Objects that a module defines are
sent by reference. Objects that the user's script or notebook (``__main__``) defines are sent by value,
because no other process has that module.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

from areal.errors import UserError
from areal.registry.environments import env_names, make_env
from areal.registry.tables import agents, rewards, sandboxes, verifiers

_TABLES = {table.kind: table for table in (agents, rewards, sandboxes, verifiers)}


def registered() -> bytes:
    """Return what is registered in this process, in the form that :func:`restore` reads.

    Raises:
        UserError: something cannot be sent to another process.
    """
    import cloudpickle  # Gymnasium requires it
    import gymnasium

    found: dict[tuple[str, str], Any] = {
        ("environment", name): gymnasium.registry[name] for name in env_names() if name in gymnasium.registry
    }
    for kind, table in _TABLES.items():
        found |= {(kind, name): value for name, value in table.entries().items()}
    pickled: dict[tuple[str, str], bytes] = {}
    for (kind, name), value in found.items():
        try:
            pickled[kind, name] = cloudpickle.dumps(value)
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            raise UserError(
                f"cannot send the {kind} '{name}' to other processes ({error}); define it in a module, or "
                "set rollout.workers=0 and rollout.env_isolation=thread"
            ) from error
    return pickle.dumps(pickled)


def restore(content: bytes) -> None:
    """Register what another process has registered.

    Raises:
        UserError: a module is not found in this process.
    """
    import gymnasium

    env_names()  # register those of installed packages first, as in the other process
    for (kind, name), pickled in pickle.loads(content).items():
        try:
            value = pickle.loads(pickled)
        except ImportError as error:
            raise UserError(f"the {kind} '{name}' is not found in a worker process: {error}") from error
        if kind == "environment":
            gymnasium.registry.setdefault(name, value)
        else:
            _TABLES[kind].restore(name, value)


def maker_elsewhere(name: str, options: dict[str, Any]) -> Callable[[], Any]:
    """Return a function that creates an environment in another process, with this one's registrations.

    Raises:
        UserError: a registered object cannot be sent to another process.
    """
    return partial(_make_elsewhere, registered(), name, options)


def _make_elsewhere(content: bytes, name: str, options: dict[str, Any]) -> Any:
    restore(content)
    return make_env(name, **options)
