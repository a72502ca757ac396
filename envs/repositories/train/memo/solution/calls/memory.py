"""The decorator."""

import functools

from calls.store import Store


def remembered(most=None):
    """Return a decorator: a call that was made before is answered from memory."""

    def decorate(function):
        store = Store(most)

        @functools.wraps(function)
        def call(*args, **kwargs):
            named = tuple((name, type(kwargs[name]), kwargs[name]) for name in sorted(kwargs))
            key = tuple((type(arg), arg) for arg in args), named
            if key not in store:
                store.put(key, function(*args, **kwargs))
            return store.get(key)

        call.store = store
        return call

    return decorate


def forget(function):
    """Forget all that a function remembers."""
    function.store.answers.clear()
