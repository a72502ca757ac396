"""One value."""

_MISSING = object()


class Lazy:
    """A value that is loaded when it is first asked for."""

    def __init__(self, load):
        self._load = load
        self._value = _MISSING

    def get(self):
        """Return the value."""
        if self._value is _MISSING:
            self._value = self._load()
        return self._value

    @property
    def loaded(self):
        """Whether it has been loaded."""
        return self._value is not _MISSING
