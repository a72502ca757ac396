"""Functions that remember what they returned."""

from calls.memory import forget, remembered

__all__ = ["forget", "remembered"]
