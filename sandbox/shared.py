"""One sandbox of each kind for a whole process: environments and agents share it."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

from areal.errors import UserError
from areal.registry import sandboxes

from .interface import SandboxUnavailable
from .packages import missing_packages

_pools: dict[tuple[str, bool, tuple[str, ...]], Any] = {}
_lock = threading.Lock()


def shared_sandbox(
    user: str, options: str, name: str, allow_weak: bool, packages: str | Sequence[str] = ()
) -> Any:
    """Return this process's sandbox of that name.

    Args:
        user: the environment or agent that uses it, for messages.
        options: the setting that holds its options, ``env_options`` or ``agent_options``.
        name: ``local``, ``container``, ``e2b`` or a registered one.
        allow_weak: accept a weak local sandbox.
        packages: packages that code can import besides the standard library, by import name. The local
            sandbox provides those installed on this host; other sandboxes must have them.

    Raises:
        UserError: there is no such sandbox on this host, or it does not have a package.
    """
    make = sandboxes.get(name)
    wanted = (packages,) if isinstance(packages, str) else tuple(packages)
    if name == "local":
        _check_installed(options, wanted)
    with _lock:
        key = (name, allow_weak, wanted)
        if key not in _pools:
            try:
                pool = make(allow_weak=allow_weak, preload=wanted) if name == "local" else make()
                if name == "local":
                    # Otherwise it starts with its first run, but errors should be reported here.
                    _ = pool.backend.level
            except SandboxUnavailable as error:
                raise UserError(
                    f"{user} cannot run code on this host: {error}. Set {options}.sandbox=container (or "
                    f"e2b) or, if the code is trusted, {options}.allow_weak=true"
                ) from error
            if name != "local" and wanted and (missing := missing_packages(pool, wanted)):
                raise UserError(f"{options}.packages: the sandbox {name} does not have {', '.join(missing)}")
            _pools[key] = pool
        return _pools[key]


def _check_installed(options: str, packages: Sequence[str]) -> None:
    """Raise UserError if a name is not a package, or the package is not installed on this host."""
    for name in packages:
        if not isinstance(name, str) or not name.replace(".", "_").isidentifier():
            raise UserError(f"{options}.packages={list(packages)}: {name!r} is not the name of a package")
        if find_spec(name.partition(".")[0]) is None:
            raise UserError(
                f"{options}.packages={list(packages)}: {name} is not installed on this host; install it "
                "with pip, or use the name under which it is imported"
            )


def _forget() -> None:
    global _lock
    _pools.clear()
    _lock = threading.Lock()


# A forked child must not use its parent's processes.
os.register_at_fork(after_in_child=_forget)
