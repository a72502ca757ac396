"""Plans of steps that need each other."""

from steps.plan import Plan
from steps.reading import read_plan

__all__ = ["Plan", "read_plan"]
