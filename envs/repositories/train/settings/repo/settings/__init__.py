"""Settings from simple files."""

from settings.loading import load
from settings.parsing import parse

__all__ = ["load", "parse"]
