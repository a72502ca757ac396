"""Values survive the codec exactly; nothing that an adversary writes hangs the reader or makes an object."""

from __future__ import annotations

import collections
import math
import time
from decimal import Decimal
from fractions import Fraction

import pytest
from colliding import colliding
from hypothesis import given
from hypothesis import strategies as st

from areal.rewards.shown import shown
from areal.sandbox import codec, frames
from areal.sandbox.interface import SandboxLimits
from areal.sandbox.process import Ended
from areal.sandbox.received import Received

ATOMS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False)
    | st.sampled_from([int, str, list])
)
KEYS = st.recursive(ATOMS, lambda inner: st.tuples(inner, inner) | st.frozensets(inner), max_leaves=4)
VALUES = st.recursive(
    ATOMS,
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.sets(KEYS) | st.dictionaries(KEYS, inner),
    max_leaves=20,
)


def shape(value):
    """Return a value with its types, so that 1, 1.0 and True differ."""
    if isinstance(value, list | tuple):
        return type(value), [shape(item) for item in value]
    if isinstance(value, set | frozenset):
        return type(value), sorted(map(repr, map(shape, value)))
    if isinstance(value, dict):
        return dict, [(shape(key), shape(item)) for key, item in value.items()]
    return type(value), value


@given(VALUES)
def test_values_come_back_exactly(value):
    back = codec.decode(codec.encode(value))
    assert back == value
    assert shape(back) == shape(value)


@given(VALUES, st.integers(0, 60))
def test_values_are_shown_as_python_shows_them_up_to_a_length(value, max_chars):
    assert shown(value) == repr(value)
    text = shown(value, max_chars)
    assert text == repr(value) or (text.endswith(" …") and len(text) > max_chars)


def test_what_is_not_shown_is_not_written_out():
    class Counted(int):
        seen = 0

        def __repr__(self):
            Counted.seen += 1
            return "9" * 4000

    assert len(shown([Counted()] * 5000)) < 20_000
    assert Counted.seen < 10


def test_special_numbers_and_text():
    assert math.isnan(codec.decode(codec.encode(math.nan)))
    assert codec.decode(codec.encode([math.inf, -math.inf])) == [math.inf, -math.inf]
    assert math.copysign(1, codec.decode(codec.encode(-0.0))) == -1
    assert codec.decode(codec.encode("\ud800")) == "\ud800"
    largest = 10**codec.MAX_DIGITS - 1
    assert codec.decode(codec.encode([largest, -largest])) == [largest, -largest]


def test_subclasses_become_builtin_types():
    Point = collections.namedtuple("Point", "x y")
    back = codec.decode(codec.encode([collections.Counter("aab"), Point(1, 2), type("S", (str,), {})("s")]))
    assert back == [{"a": 2, "b": 1}, (1, 2), "s"]
    assert [type(item) for item in back] == [dict, tuple, str]


def test_fractions_and_decimals_that_equal_a_number_become_it():
    back = codec.decode(
        codec.encode([Fraction(3, 2), Fraction(4), Decimal("0.5"), Decimal("3.0"), Decimal(0)])
    )
    assert back == [1.5, 4, 0.5, 3, 0]
    assert [type(item) for item in back] == [float, int, float, int, int]


@pytest.mark.parametrize(
    "value",
    [object(), iter([]), range(3), object, print, 10**codec.MAX_DIGITS, Fraction, Fraction(1, 3)]
    + [Decimal(text) for text in ("0.1", "nan", "inf", "-1e-400")],
    ids=lambda value: type(value).__name__,
)
def test_what_is_no_value_is_refused(value):
    with pytest.raises(codec.NotAValue):
        codec.encode(value)


def test_a_cycle_is_refused():
    value: list = []
    value.append(value)
    with pytest.raises(codec.NotAValue):
        codec.encode(value)


COLLIDING = ",".join(str(n * (2**61 - 1)) for n in range(1, 300_000)).encode()
BOMBS = {
    "deep": b"[" * 1_000_000 + b"]" * 1_000_000,
    "deep objects": b'{"t":[' * 500_000 + b"]}" * 500_000,
    "deep in a string's shadow": b'["' + b"\\\\" * 10 + b'",' + b"[" * 200_000 + b"]" * 200_000 + b"]",
    "unbalanced": b"[" * 1_000_000,
    "digits": b"9" * 8_000_000,
    "fraction": b"0." + b"9" * 8_000_000,
    "exponent": b"1e" + b"9" * 8_000_000,
    "wide": b"[" + b"[]," * 2_600_000 + b"[]]",
    "set of equal hashes": b'{"s":[' + COLLIDING + b"]}",
    "dictionary of equal hashes": b'{"d":[' + COLLIDING.replace(b",", b",0],[").join([b"[", b",0]]}"]),
    "unhashable": b'{"s":[[]]}',
    "two keys": b'{"t":[],"s":[]}',
    "no key": b"{}",
    "unknown tag": b'{"x":[]}',
    "wrong body": b'{"t":1}',
    "wrong pair": b'{"d":[[1,2,3]]}',
    "wrong type": b'{"y":"object"}',
    "wrong bytes": b'{"b":"zz"}',
    "wrong complex": b'{"c":[1,2]}',
    "sixteen bits": "[1]".encode("utf-16"),
    "not ASCII": '"é"'.encode(),
    "nothing": b"",
    "two values": b"1 2",
    "quotes": b'"' * 8_000_001,
    "escaped quotes": b'"' + b'\\"' * 1_900_000,
    "backslashes": b'"' + b"\\" * 8_000_000,
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_quickly(name):
    start = time.process_time()
    try:
        codec.decode(BOMBS[name])
    except codec.BadEncoding as refusal:
        str(refusal)
    else:
        assert name in ("fraction", "exponent")  # long, and numbers all the same
    # Far above what any takes, and below the half minute or more of a decoder that falls for one.
    assert time.process_time() - start < 20


def test_elements_that_share_their_way_through_a_table_are_refused():
    pairs = ",".join(f"[{key},0]" for key in colliding(bits=17))
    with pytest.raises(codec.BadEncoding, match="each other's way"):
        codec.decode(b'{"d":[' + pairs.encode() + b"]}")


@pytest.mark.parametrize("step", [1, 2**20, 2**38, 1.1, "a", (1, 2)], ids=str)
def test_large_honest_tables_are_read(step):
    members = [(n, step) if isinstance(step, tuple) else n * step for n in range(20_000)]
    members = [f"{n}a" for n in range(20_000)] if step == "a" else members
    for table in (set(members), frozenset(members), dict.fromkeys(members)):
        assert codec.decode(codec.encode(table)) == table


def test_a_set_has_a_largest_size():
    largest = set(range(codec.MAX_SET))
    assert codec.decode(codec.encode(largest)) == largest
    with pytest.raises(codec.NotAValue):
        codec.encode(largest | {-1})
    text = codec.encode(list(largest | {-1}))
    with pytest.raises(codec.BadEncoding, match="a set of more than"):
        codec.decode(b'{"s":' + text + b"}")


def test_a_stream_is_cut_into_frames_whatever_its_pieces():
    whole = b"".join(frames.pack("returned", n) for n in range(5))
    for size in (1, 3, 7, len(whole)):
        received = Received(SandboxLimits(result_bytes=1000), False)
        found = []
        for start in range(0, len(whole), size):
            received.add_results(whole[start : start + size])
            while (body := received.next_frame()) is not None:
                found.append(frames.unpack(body))
        assert found == [("returned", [n]) for n in range(5)]
        assert not received.partial


def test_a_stream_beyond_its_limit_is_refused_before_it_is_kept():
    received = Received(SandboxLimits(result_bytes=100), False)
    received.add_results(b"\xff\xff\xff\xff")
    with pytest.raises(Ended, match="output_limit"):
        received.next_frame()
    with pytest.raises(Ended, match="output_limit"):
        received.add_results(bytes(100))


@pytest.mark.parametrize("body", [b"1", b"[]", b"[1]", b'{"t":["returned",1]}', b'[["returned"]]', b"null"])
def test_a_message_is_a_list_that_starts_with_its_kind(body):
    with pytest.raises(frames.BadFrame):
        frames.unpack(body)


@pytest.mark.parametrize("digits", [4299, 4300, 4301, 6011, codec.MAX_DIGITS - 1])
def test_long_integers_are_values(digits: int):
    number = 10**digits + 7
    for value in (number, -number, [number, {number}]):
        assert codec.decode(codec.encode(value)) == value
    assert len(shown(number)) < 20_000
    assert len(shown([-number] * 1000)) < 20_000


@pytest.mark.parametrize("body", ["", "-", "0x1", "1_0", " 1", "g", "1" * 100_001])
def test_long_integers_are_written_in_one_way(body: str):
    with pytest.raises(codec.BadEncoding):
        codec.decode(b'{"i":"%s"}' % body.encode())
