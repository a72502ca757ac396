from tables import columns, render


def test_plain():
    rows = [{"name": "a", "size": 12}, {"name": "long", "size": 3}]
    assert render(rows) == "name  size\na     12\nlong  3"


def test_columns():
    assert columns([{"b": 1, "a": 2}]) == ["b", "a"]
    assert [columns([]), render([])] == [[], ""]
