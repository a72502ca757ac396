from settings import load


def test_a_load_leaves_nothing_to_the_next():
    load("debug = yes")
    assert load("") == {}
    assert load("level = 3") == {"level": "3"}
    assert load("") == {}


def test_defaults_stay_as_they_were():
    defaults = {"a": "0", "c": "3"}
    assert load("a = 1", defaults) == {"a": "1", "c": "3"}
    assert defaults == {"a": "0", "c": "3"}


def test_what_is_returned_is_the_callers_own():
    defaults = {"a": "0"}
    load("", defaults)["a"] = "9"
    load("")["b"] = "9"
    assert [defaults, load("")] == [{"a": "0"}, {}]
