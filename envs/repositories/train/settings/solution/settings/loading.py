"""Settings with defaults."""

from settings.parsing import parse


def load(text, defaults=None):
    """Return the settings of a file's text, over some defaults."""
    return {**(defaults or {}), **parse(text)}
