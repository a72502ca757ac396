"""Things that are loaded when they are needed."""

from lazy.registry import Registry
from lazy.value import Lazy

__all__ = ["Lazy", "Registry"]
