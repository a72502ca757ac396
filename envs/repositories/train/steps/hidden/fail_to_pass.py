from steps import Plan, read_plan


def test_priorities_are_numbers():
    assert read_plan("a 9\nb 10\nc 100\nd -1\ne -20").order() == ["c", "b", "a", "d", "e"]


def test_of_equal_ones_the_first_comes_first():
    assert read_plan("b\na\nd\nc").order() == ["b", "a", "d", "c"]
    assert read_plan("x 1: b\nb 1\na 1").order() == ["b", "x", "a"]


def test_circles():
    said = []
    for text in ("b: a\na: b", "z\nc: a\na: b\nb: a", "a: a"):
        try:
            said.append(read_plan(text).order())
        except ValueError as error:
            said.append(str(error))
    assert said == ["a circle: b, a", "a circle: c, a, b", "a circle: a"]
