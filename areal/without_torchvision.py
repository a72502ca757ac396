"""Lets vLLM serve vision-language models without torchvision.

vLLM's files of the Qwen-VL models import one function, ``smart_resize``, from a module of transformers that
requires torchvision. transformers has the same function in a module that does not. torchvision often cannot
be installed: the builds on PyPI are for PyTorch with CUDA, and do not load next to one for a CPU.
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
    """Finds one module in place of the other on demand, and imports nothing before."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if name != _NEEDS or not path:
            return None
        file = Path(path[0]) / _DOES_WITHOUT
        return importlib.util.spec_from_file_location(name, file) if file.is_file() else None


def look_past_torchvision() -> None:
    """Apply this in the current process, if torchvision is not installed."""
    installed = any(isinstance(finder, _Finder) for finder in sys.meta_path)
    if not installed and importlib.util.find_spec("torchvision") is None:
        sys.meta_path.insert(0, _Finder())
