from tables import columns, render


def test_markdown():
    rows = [{"name": "a", "size": 12}, {"name": "b", "size": 1.5}]
    assert render(rows, form="markdown") == "| name | size |\n| --- | --: |\n| a | 12 |\n| b | 1.5 |"


def test_signs():
    rows = [{"a|b": "x|y\nz"}]
    assert render(rows, form="markdown") == "| a\\|b |\n| --- |\n| x\\|y z |"


def test_missing_values():
    rows = [{"a": 1}, {"b": "x"}, {"a": 3, "c": True}]
    assert render(rows, form="markdown") == (
        "| a | b | c |\n| --: | --- | --- |\n| 1 |  |  |\n|  | x |  |\n| 3 |  | True |"
    )


def test_all_columns():
    assert columns([{"a": 1}, {"b": 2, "a": 3}, {"c": 4}]) == ["a", "b", "c"]
    assert render([{"a": 1}, {"b": 2}]) == "a  b\n1\n   2"


def test_forms():
    said = None
    try:
        render([{"a": 1}], form="html")
    except ValueError as error:
        said = str(error)
    assert [said, render([], form="markdown")] == ["unknown form 'html'", ""]
