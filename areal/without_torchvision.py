"""Lets vLLM serve models that see where torchvision is not installed.

vLLM's files of the Qwen-VL models import one function, ``smart_resize``, from a module of transformers that
needs torchvision. transformers has the same in a module that does without. torchvision often cannot be there:
PyPI's builds are for PyTorch with CUDA, and do not load beside one for a CPU.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

_NEEDS = "transformers.models.qwen2_vl.image_processing_qwen2_vl"
_DOES_WITHOUT = "image_processing_pil_qwen2_vl.py"


class _Finder(MetaPathFinder):
    """Finds the one module in the place of the other, when it is asked for; nothing is imported before."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if name != _NEEDS or not path:
            return None
        file = Path(path[0]) / _DOES_WITHOUT
        return importlib.util.spec_from_file_location(name, file) if file.is_file() else None


def look_past_torchvision() -> None:
    """Do so in this process, if torchvision is not installed."""
    installed = any(isinstance(finder, _Finder) for finder in sys.meta_path)
    if not installed and importlib.util.find_spec("torchvision") is None:
        sys.meta_path.insert(0, _Finder())
