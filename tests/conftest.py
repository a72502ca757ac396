"""Modules beside this file, shared by tests of several layers, can be imported by name."""

from __future__ import annotations

import sys
from pathlib import Path

from hypothesis import settings

sys.path.insert(0, str(Path(__file__).parent))

# How long an example takes says more of the machine than of the code.
settings.register_profile("areal", deadline=None)
settings.load_profile("areal")
