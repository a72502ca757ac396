"""The OpenAI Agents SDK, whose import name, ``agents``, is that of a folder at our top."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

_OURS = Path(__file__).parents[1]


def agents_sdk() -> ModuleType:
    """Import it, also where our own top folder stands on the path before it (PYTHONPATH, ``python -m``)."""
    path = sys.path[:]
    sys.path[:] = [entry for entry in path if Path(entry).resolve() != _OURS]
    try:
        return importlib.import_module("agents")
    finally:
        sys.path[:] = path
