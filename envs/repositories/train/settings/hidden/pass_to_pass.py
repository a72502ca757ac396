from settings import load, parse


def test_parse():
    assert parse("a = 1 # one\n\nb=2 = 3") == {"a": "1", "b": "2 = 3"}


def test_a_line_that_is_none():
    try:
        parse("a = 1\nb")
    except ValueError as error:
        said = str(error)
    assert said == "line 2 has no ="


def test_the_file_wins():
    assert load("a = 1", {"a": "0", "c": "3"}) == {"a": "1", "c": "3"}
