import threading

from lazy import Lazy, Registry


def test_once():
    calls = []
    value = Lazy(lambda: calls.append(1) or "loaded")
    before = value.loaded
    assert [before, value.get(), value.get(), value.loaded, calls] == [False, "loaded", "loaded", True, [1]]


def test_none_is_a_value():
    calls = []
    value = Lazy(lambda: calls.append(1))
    value.get()
    value.get()
    assert calls == [1]


def test_a_failure_is_no_value():
    calls = []

    def load():
        calls.append(len(calls))
        return 1 / (len(calls) - 1)

    value = Lazy(load)
    try:
        value.get()
    except ZeroDivisionError:
        calls.append("raised")
    assert [value.loaded, calls, value.get()] == [False, [0, "raised", 2], 0.5]


def test_names_do_not_wait_for_each_other():
    other = threading.Event()
    registry = Registry(lambda name: other.wait(3) if name == "first" else other.set() or name)
    found = []
    thread = threading.Thread(target=lambda: found.append(registry.get("first")), daemon=True)
    thread.start()
    assert registry.get("second") == "second"
    thread.join(3)
    assert [found, registry.names()] == [[True], ["first", "second"]]
