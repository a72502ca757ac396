from steps import Plan, read_plan


def test_needs_come_first():
    assert read_plan("bake 5: mix, heat\nmix 1\nheat 2").order() == ["heat", "mix", "bake"]
    assert Plan().order() == []


def test_wrong_plans():
    said = []
    for text in ("a: b", "a\na"):
        try:
            read_plan(text).order()
        except ValueError as error:
            said.append(str(error))
    assert said == ["a needs b, which is no step", "the step a is there twice"]
