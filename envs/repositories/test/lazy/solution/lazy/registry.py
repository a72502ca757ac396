"""Values by their names."""

import threading

from lazy.value import Lazy


class Registry:
    """Loads the value of a name by calling a function with it."""

    def __init__(self, load):
        self._load = load
        self._values = {}
        self._lock = threading.Lock()

    def get(self, name):
        """Return the value of a name."""
        with self._lock:
            if name not in self._values:
                self._values[name] = Lazy(lambda: self._load(name))
            value = self._values[name]
        return value.get()

    def names(self):
        """Return the names whose values have been loaded."""
        return sorted(name for name, value in self._values.items() if value.loaded)
