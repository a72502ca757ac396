import threading
import time

from lazy import Lazy, Registry


def together(functions):
    found = [None] * len(functions)
    start = threading.Barrier(len(functions))

    def work(place):
        start.wait()
        try:
            found[place] = functions[place]()
        except Exception as error:
            found[place] = type(error).__name__

    threads = [threading.Thread(target=work, args=(place,), daemon=True) for place in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(3)
    return found


def slow(calls, name="value"):
    calls.append(name)
    time.sleep(0.1)
    return f"{name} {len(calls)}"


def test_one_load_for_all_threads():
    calls = []
    value = Lazy(lambda: slow(calls))
    assert together([value.get] * 4) == ["value 1", "value 1", "value 1", "value 1"]
    assert calls == ["value"]


def test_who_waited_tries_again():
    calls = []

    def load():
        slow(calls)
        if len(calls) == 1:
            raise KeyError
        return "loaded"

    value = Lazy(load)
    assert sorted(together([value.get] * 3)) == ["KeyError", "loaded", "loaded"]
    assert len(calls) == 2


def test_a_registry_loads_once():
    calls = []
    registry = Registry(lambda name: slow(calls, name))
    assert together([lambda: registry.get("a")] * 5) == ["a 1", "a 1", "a 1", "a 1", "a 1"]
