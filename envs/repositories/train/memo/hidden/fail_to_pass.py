from calls import remembered


def test_keywords_count():
    made = []

    @remembered()
    def power(x, base=10):
        made.append((x, base))
        return base**x

    assert [power(3), power(3, base=2), power(3, base=5), power(3, base=2)] == [1000, 8, 125, 8]
    assert made == [(3, 10), (3, 2), (3, 5)]


def test_the_order_of_keywords_does_not_count():
    made = []

    @remembered()
    def pair(**names):
        made.append(sorted(names.items()))
        return len(made)

    assert [pair(a=1, b=2), pair(b=2, a=1), pair(a=2, b=1)] == [1, 1, 2]


def test_types_count():
    @remembered()
    def name(x):
        return type(x).__name__

    assert [name(1), name(True), name(1.0), name(1)] == ["int", "bool", "float", "int"]


def test_what_was_used_last_stays():
    made = []

    @remembered(most=2)
    def note(x):
        made.append(x)
        return x

    for x in (1, 2, 1, 3, 1, 2):
        note(x)
    assert made == [1, 2, 3, 2]
