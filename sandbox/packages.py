"""The packages of a sandbox's interpreter besides the standard library."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from .blocking import wait_for
from .interface import Call, Calls, Job, Returned, SandboxUnavailable

_SOURCE = """
import importlib.util, os, pkgutil, sys
def missing(names):
    return [name for name in names if importlib.util.find_spec(name) is None]
def packages():
    own = os.path.dirname(os.__file__)
    paths = [path for path in sys.path if path not in (own, own + "/lib-dynload")]
    return sorted({m.name for m in pkgutil.iter_modules(paths) if m.name[0] != "_"})
def version():
    return sys.version.split()[0]
"""


def missing_packages(sandbox: Any, names: Iterable[str]) -> list[str]:
    """Return the packages that code there cannot import; raises SandboxUnavailable if the sandbox failed."""
    (missing,) = _ask(sandbox, Call("missing", (sorted(names),)))
    return list(missing)


def interpreter(sandbox: Any) -> tuple[str, tuple[str, ...]]:
    """Return the version of a sandbox's Python, and its packages; raises SandboxUnavailable if it failed."""
    version, packages = _ask(sandbox, Call("version"), Call("packages"))
    return version, tuple(packages)


def _ask(sandbox: Any, *calls: Call) -> list[Any]:
    outcome = wait_for(sandbox.run(Job(_SOURCE, Calls(calls))))
    values = [result.value for result in outcome.values if isinstance(result, Returned)]
    if len(values) < len(calls):
        raise SandboxUnavailable(f"a look at its packages failed: {outcome.error or outcome.status}")
    return values
