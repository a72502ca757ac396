"""One sandbox of each kind for a whole process: environments and agents share it."""

from __future__ import annotations

import os
import threading
from typing import Any

from areal.errors import UserError
from areal.registry import sandboxes

from .interface import SandboxUnavailable

_pools: dict[tuple[str, bool], Any] = {}
_lock = threading.Lock()


def shared_sandbox(user: str, options: str, name: str, allow_weak: bool) -> Any:
    """Return this process's sandbox of that name.

    Args:
        user: the environment or agent that wants it, for complaints.
        options: the setting that holds its options, ``env_options`` or ``agent_options``.
        name: ``local``, ``container``, ``e2b`` or a registered one.
        allow_weak: accept what the host gives when the local sandbox is not strong here.

    Raises:
        UserError: there is none here.
    """
    make = sandboxes.get(name)
    with _lock:
        if (name, allow_weak) not in _pools:
            try:
                pool = make(allow_weak=allow_weak) if name == "local" else make()
                if name == "local":
                    # It starts with its first run otherwise, and this is the place to complain.
                    _ = pool.backend.level
            except SandboxUnavailable as error:
                raise UserError(
                    f"{user} cannot run code here: {error}. Use {options}.sandbox=container (or e2b), or, "
                    f"where the code may be trusted, {options}.allow_weak=true"
                ) from error
            _pools[name, allow_weak] = pool
        return _pools[name, allow_weak]


def _forget() -> None:
    global _lock
    _pools.clear()
    _lock = threading.Lock()


# A forked child must not use its parent's processes.
os.register_at_fork(after_in_child=_forget)
