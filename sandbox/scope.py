"""Names that the judges of programming contests put in scope before a program runs.

LiveCodeBench's runner first imports everything from many modules, and that of APPS some of their names. The
stubs of their problems, and the programs that models write for them, rely on this. Only names that a program
mentions are bound here, because importing everything takes longer than most runs. This module runs inside the
sandbox, like guest.py.
"""

from __future__ import annotations

import builtins
import importlib
import sys
from types import CodeType
from typing import Any

RECURSION_LIMIT = 50_000
"""The same as in LiveCodeBench's runner."""

_STARS = (
    *("string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics"),
    *("itertools", "functools", "operator", "io", "sys", "json", "builtins", "typing"),
)
"""Modules of star imports, in the order of LiveCodeBench's runner; of equal names, the later one counts."""
_MODULES = {name: name for name in (*_STARS, "time", "fractions")} | {"np": "numpy"}
"""Modules that are bound themselves, after the others; the last three are from APPS' runner."""
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
"""Names that a star import of the slow modules binds."""


def bind_contest(code: CodeType, names: dict[str, Any]) -> None:
    """Bind names that a contest program mentions in its namespace, and allow its recursion depth."""
    sys.setrecursionlimit(RECURSION_LIMIT)
    mentioned = _mentioned(code)
    if "open" in mentioned:
        names["open"] = _open
    # The judges import the builtins near the end, which hides other objects with their names.
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
            # NumPy, if it is not installed; the program's own use then raises the error.
            continue


def _open(file: Any, *args: Any, **kwargs: Any) -> Any:
    """Work like ``open``; a program's streams also have file names, although there are no such files."""
    return open(_STREAMS.get(file, file) if isinstance(file, str) else file, *args, **kwargs)


def _mentioned(code: CodeType) -> set[str]:
    """Return the names that code mentions, other than local variables, including attributes."""
    found: set[str] = set()
    codes = [code]
    while codes:
        some = codes.pop()
        found.update(some.co_names)
        codes += [constant for constant in some.co_consts if isinstance(constant, CodeType)]
    return found
