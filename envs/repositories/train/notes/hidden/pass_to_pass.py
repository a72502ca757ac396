from notes import Notes, main


def said(*arguments):
    lines, notes = [], Notes(["one", "two", "three"])
    code = main(list(arguments), notes, lines.append)
    return code, lines, notes.texts[3:]


def test_commands():
    assert said("list") == (0, ["three", "two", "one"], [])
    assert said("list", "--limit", "1") == (0, ["three"], [])
    assert said("add", "buy", "milk") == (0, ["4 notes"], ["buy milk"])


def test_what_is_refused():
    assert said() == (2, ["say one of: add, list"], [])
    assert said("drop") == (2, ["say one of: add, list"], [])
    assert said("list", "--all") == (2, ["unknown option --all"], [])
    assert said("list", "--limits=3") == (2, ["unknown option --limits=3"], [])
    assert said("add") == (2, ["a note has a text"], [])
