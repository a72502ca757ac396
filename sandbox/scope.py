"""Names that the judges of programming contests put in scope before a program runs.

LiveCodeBench's runner imports all of many modules first, that of APPS some names of them: the stubs of their
problems, and the programs that models write for them, count on it. Only what a program mentions is bound
here, since to import all of it takes longer than most runs. It runs inside the sandbox, like guest.py.
"""

from __future__ import annotations

import builtins
import importlib
import sys
from types import CodeType
from typing import Any

RECURSION_LIMIT = 50_000
"""As in LiveCodeBench's runner."""

_STARS = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing"),
)
"""Imported with a star, in the order of LiveCodeBench's runner: of equal names the later one counts."""
_MODULES = {name: name for name in (*_STARS, "time", "fractions")} | {"np": "numpy"}
"""Bound themselves, after the rest; the last three are of APPS' runner."""
_STREAMS = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_SLOW = {
    "random": (
        *("Random", "SystemRandom", "betavariate", "choice", "choices", "expovariate", "gammavariate"),
        *("gauss", "getrandbits", "getstate", "lognormvariate", "normalvariate", "paretovariate"),
        *("randbytes", "randint", "randrange", "sample", "seed", "setstate", "shuffle", "triangular"),
        *("uniform", "vonmisesvariate", "weibullvariate"),
    ),
    "statistics": (
        *("NormalDist", "StatisticsError", "correlation", "covariance", "fmean", "geometric_mean"),
        *("harmonic_mean", "linear_regression", "mean", "median", "median_grouped", "median_high"),
        *("median_low", "mode", "multimode", "pstdev", "pvariance", "quantiles", "stdev", "variance"),
    ),
}
"""What the modules that are slow to import give to a star."""


def bind_contest(code: CodeType, names: dict[str, Any]) -> None:
    """Bind what a contest's program mentions in its namespace, and let it recurse as deep as it may there."""
    sys.setrecursionlimit(RECURSION_LIMIT)
    mentioned = _mentioned(code)
    if "open" in mentioned:
        names["open"] = _open
    # The builtins are imported near the end there: what has a name of theirs is hidden by them.
    wanted = mentioned - vars(builtins).keys()
    for module_name in _STARS:
        if wanted.isdisjoint(_SLOW.get(module_name, wanted)):
            continue
        module = importlib.import_module(module_name)
        public = getattr(module, "__all__", None) or [name for name in vars(module) if name[0] != "_"]
        names.update((name, getattr(module, name)) for name in wanted.intersection(public))
    for name in wanted & _MODULES.keys():
        try:
            names[name] = importlib.import_module(_MODULES[name])
        except ModuleNotFoundError:
            # NumPy, where it has not been added: the program's own mention of it says so.
            continue


def _open(file: Any, *args: Any, **kwargs: Any) -> Any:
    """Do what ``open`` does; a program's streams have their names, though the sandbox has no such files."""
    return open(_STREAMS.get(file, file) if isinstance(file, str) else file, *args, **kwargs)


def _mentioned(code: CodeType) -> set[str]:
    """Return the names that code mentions, other than local variables; attributes are among them."""
    found: set[str] = set()
    codes = [code]
    while codes:
        some = codes.pop()
        found.update(some.co_names)
        codes += [constant for constant in some.co_consts if isinstance(constant, CodeType)]
    return found
