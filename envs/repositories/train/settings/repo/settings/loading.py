"""Settings with defaults."""

from settings.parsing import parse


def load(text, defaults={}):
    """Return the settings of a file's text, over some defaults."""
    settings = defaults
    settings.update(parse(text))
    return settings
