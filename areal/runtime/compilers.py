"""Checks for the compilers that a run calls, before anything is started."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from areal.config import Config
from areal.errors import UserError

_GET = "install one (Debian and Ubuntu: apt install build-essential)"


def require_compilers(
    config: Config,
    device: str,
    variables: Mapping[str, str] = os.environ,
    headers: str | None = None,
) -> None:
    """Check for the compiler that Triton calls on a GPU, or that a setting requires for PyTorch on a CPU.

    Args:
        config: configuration of the run; with the default settings, nothing is compiled on a CPU.
        device: ``cpu`` or ``cuda``.
        variables: environment variables: ``PATH``, and ``CC`` or ``CXX``, which name a compiler.
        headers: folder of Python's C headers; None: the default one.

    Raises:
        UserError: something is missing.
    """
    if device == "cuda":
        if not _found(variables, "CC", "gcc", "clang"):
            raise UserError(
                "a GPU needs a C compiler, because kernels are compiled when they are first used, and "
                f"there is none; {_GET}, or name it with CC=/path/to/gcc"
            )
        if not (file := Path(headers or _headers(), "Python.h")).is_file():
            raise UserError(
                "a GPU needs Python's headers, because kernels are compiled when they are first used, and "
                f"there is no {file}; install them (Debian and Ubuntu: apt install python3-dev)"
            )
        return
    asked = ["learner.compile=true"] * bool(config.learner.compile)
    asked += ["engine.eager=false"] * (config.engine.eager is False)
    if asked and not _found(variables, "CXX", "g++"):
        raise UserError(
            f"{' and '.join(asked)}: there is no C++ compiler; {_GET}, name it with CXX=/path/to/g++, or "
            f"remove {'these settings' if len(asked) > 1 else 'this setting'}"
        )


def _headers() -> str:
    scheme = sysconfig.get_default_scheme()
    # Debian's own scheme, which installs packages to /usr/local, has the wrong path of headers.
    return sysconfig.get_paths("posix_prefix" if scheme == "posix_local" else scheme)["include"]


def _found(variables: Mapping[str, str], named: str, *usual: str) -> bool:
    names = [variables[named].split()[0]] if variables.get(named, "").split() else usual
    return any(shutil.which(name, path=variables.get("PATH")) for name in names)
