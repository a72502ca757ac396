from calls import forget, remembered


def test_a_call_is_made_once():
    made = []
    double = remembered()(lambda x: made.append(x) or 2 * x)
    assert [double(2), double(2), double(3)] == [4, 4, 6]
    assert made == [2, 3]


def test_none_is_an_answer():
    made = []
    note = remembered()(lambda x: made.append(x))
    note(1)
    note(1)
    assert made == [1]


def test_forget():
    made = []
    note = remembered(most=5)(lambda x: made.append(x))
    note(1)
    forget(note)
    note(1)
    assert made == [1, 1]


def test_an_error_is_not_remembered():
    made = []

    @remembered()
    def fail(x):
        made.append(x)
        raise KeyError(x)

    for _ in range(2):
        try:
            fail(7)
        except KeyError:
            made.append("raised")
    assert made == [7, "raised", 7, "raised"]
