from notes import Notes, main


def said(*arguments):
    lines, notes = [], Notes(["one", "two", "three"])
    code = main(list(arguments), notes, lines.append)
    return code, lines, notes.texts[3:]


def test_an_equals_sign():
    assert said("list", "--limit=2") == (0, ["three", "two"], [])
    assert said("list", "--limit=0") == (0, [], [])


def test_words_after_two_hyphens():
    assert said("add", "--", "--urgent") == (0, ["4 notes"], ["--urgent"])
    assert said("add", "call", "--", "--limit", "3", "--") == (0, ["4 notes"], ["call --limit 3 --"])


def test_a_limit_that_is_none():
    assert said("list", "--limit") == (2, ["--limit needs a number"], [])
    assert said("list", "--limit", "x") == (2, ["--limit needs a number"], [])
    assert said("list", "--limit=") == (2, ["--limit needs a number"], [])
