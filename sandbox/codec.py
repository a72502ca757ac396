"""Encodes values as text across a process boundary: exact builtin types, and nothing else.

Both sides use the same file. JSON represents ``None``, booleans, numbers, strings and lists as themselves,
and everything else as an object with one key: ``{"t": [...]}`` a tuple, ``s`` a set, ``f`` a frozenset, ``d``
a dictionary as pairs, ``b`` bytes and ``i`` a long integer in hexadecimal, ``c`` a complex number, ``y`` a
builtin type by its name. ``decode`` trusts nothing: its input may come from an adversary who wants the reader
to hang, to run out of memory or to create an object of a class.

It only imports the standard library, because it also runs inside the sandbox.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Iterator
from itertools import accumulate
from typing import Any

MAX_DEPTH = 100
"""Maximum levels of nesting, counted in JSON (a tuple takes two)."""
MAX_DIGITS = 100_000
"""Maximum decimal digits of an integer."""
PLAIN_DIGITS = 4300
"""Maximum digits of a decimal integer; longer ones take quadratic time to read, so they are hexadecimal."""
MAX_NODES = 1_000_000
"""Approximate maximum elements of a value; each takes the reader about 60 bytes, however short its text."""
MAX_EQUAL_HASHES = 16
"""Maximum elements of a set or dictionary with the same hash; more are an attack on the reader's time."""
MAX_SET = 75_000
"""Maximum members of a set; a larger one reorders them as it grows, in one uninterruptible step."""
_MEMBER_S, _SPARE_S = 3e-6, 0.1
"""Seconds of CPU time for building hash tables, for each member and in total: tens of times what honest ones
take."""
_UNWATCHED = 64
"""Number of members whose places in a hash table are found quickly in any case."""

_STEPS = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_ALL_BUT_MARKS = bytes(set(range(256)) - set(b'[]{}"'))
_LARGEST, _PLAIN = 10**MAX_DIGITS, 10**PLAIN_DIGITS
_HEXADECIMAL = re.compile(r"-?[0-9a-f]{1,100000}")
_TYPES = {kind.__name__: kind for kind in (bool, int, float, complex, str, bytes, list, tuple, set, dict)}
_BASES: tuple[Any, ...] = (str, int, float, list, tuple, set, frozenset, dict, bytes, complex)


class NotAValue(TypeError):
    """The object does not consist of builtin types, or is too deep or too long to be sent."""


class BadEncoding(ValueError):
    """The text is not an output of ``encode``."""


def encode(value: Any) -> bytes:
    """Return a value as ASCII text.

    Subclasses of builtin types become the builtin type (``Counter`` a dictionary, a named tuple a tuple);
    NumPy arrays and numbers become lists and numbers, and so do fractions and decimals that equal one.

    Raises:
        NotAValue: the object is of another type, or exceeds the limits of nesting or length above.
    """
    return _ENCODER.encode(_tree(value, MAX_DEPTH)).encode("ascii")


def decode(text: bytes) -> Any:
    """Return the value that ``text`` represents.

    Raises:
        BadEncoding: the text is malformed, or exceeds the limits above.
    """
    _check_shape(text)
    return decode_trusted(text)


def decode_trusted(text: bytes) -> Any:
    """Return the value that ``text`` represents; its writer is trusted."""
    try:
        return json.loads(text.decode("ascii"), object_pairs_hook=_Reader().tagged, parse_int=_integer)
    except (ValueError, TypeError, RecursionError) as error:
        raise BadEncoding(str(error)[:200]) from None


def _tree(value: Any, room: int) -> Any:
    """Return the JSON representation of ``value``; ``room`` is the remaining depth."""
    if room <= 0:
        raise NotAValue("nested too deeply")
    kind = type(value)
    if value is None or kind is bool or kind is str or kind is float:
        return value
    if kind is int:
        if not -_LARGEST < value < _LARGEST:
            raise NotAValue(f"an integer of more than {MAX_DIGITS} digits")
        return value if -_PLAIN < value < _PLAIN else {"i": format(value, "x")}
    if kind is list:
        return [_tree(item, room - 1) for item in value]
    if kind is tuple or kind is set or kind is frozenset:
        if kind is not tuple and len(value) > MAX_SET:
            raise NotAValue(f"a set of more than {MAX_SET} members")
        return {kind.__name__[0]: [_tree(item, room - 2) for item in value]}
    if kind is dict:
        return {"d": [[_tree(key, room - 3), _tree(item, room - 3)] for key, item in value.items()]}
    if kind is bytes:
        return {"b": value.hex()}
    if kind is complex:
        return {"c": [value.real, value.imag]}
    if kind is type and value in _TYPES.values():
        return {"y": value.__name__}
    return _tree(_plain(value), room - 1)


def _plain(value: Any) -> Any:
    """Convert an instance of a subclass to its builtin type."""
    for base in _BASES:
        if isinstance(value, base):
            return base(value)
    if type(value).__module__ == "numpy":
        return value.tolist()
    if hasattr(type(value), "as_integer_ratio"):
        return _number(value)
    raise NotAValue(type(value).__name__)


def _number(value: Any) -> int | float:
    """Return the integer or float that equals a ``Fraction`` or a ``Decimal``."""
    with contextlib.suppress(ValueError, OverflowError):
        numerator, denominator = value.as_integer_ratio()
        number: int | float = numerator if denominator == 1 else numerator / denominator
        if number == value:
            return number
    raise NotAValue(type(value).__name__)


def _check_shape(text: bytes) -> None:
    """Raise BadEncoding for text that would exhaust the parser's stack or memory, in linear time."""
    if text.count(b",") + text.count(b"[") + text.count(b"{") > MAX_NODES or text.count(b'"') > 4 * MAX_NODES:
        raise BadEncoding("too many elements")
    # After removing escaped backslashes and then escaped quotes, every second piece between quotes is a
    # string. A regular expression for whole strings would take quadratic time if none ends.
    marks = text.replace(b"\\\\", b"").replace(b'\\"', b"").translate(None, _ALL_BUT_MARKS)
    brackets = b"".join(marks.split(b'"')[::2])
    # Too many closing brackets are left to the parser, which stops there.
    if max(accumulate(map(_STEPS.__getitem__, brackets)), default=0) > MAX_DEPTH:
        raise BadEncoding("nested too deeply")


def _integer(digits: str) -> int:
    if len(digits) > PLAIN_DIGITS + 1:
        raise BadEncoding("an integer too long")
    return int(digits)


class _Reader:
    """Reads one text.

    Different hashes may have the same probe sequence in a hash table, and the hashes of numbers and tuples
    are predictable: a table of about 10**5 of them would take minutes. The reader therefore limits the time
    while tables grow. (A dictionary that outgrows its table is rebuilt in the same order, with probe
    sequences that collide no more often than before, so this step, which cannot be limited, takes no longer
    than the earlier ones.)
    """

    def __init__(self) -> None:
        self._left = _SPARE_S

    def tagged(self, pairs: list[tuple[str, Any]]) -> Any:
        """Build the value of a JSON object whose parts are already built."""
        if len(pairs) != 1:
            raise BadEncoding("an object with other than one key")
        tag, body = pairs[0]
        if type(body) is str:
            if tag == "b":
                return bytes.fromhex(body)
            if tag == "y" and body in _TYPES:
                return _TYPES[body]
            if tag == "i" and _HEXADECIMAL.fullmatch(body):
                return int(body, 16)
        if type(body) is not list:
            raise BadEncoding(f"'{tag[:20]}' needs a list")
        if tag == "t":
            return tuple(body)
        if tag == "d":
            return self._dictionary(body)
        if tag == "s" or tag == "f":
            if len(body) > MAX_SET:
                raise BadEncoding(f"a set of more than {MAX_SET} members")
            _check_hashes(body)
            return (set if tag == "s" else frozenset)(self._watched(body))
        if tag == "c" and [type(part) for part in body] == [float, float]:
            return complex(*body)
        raise BadEncoding(f"unknown tag {tag[:20]!r}")

    def _dictionary(self, pairs: list[Any]) -> dict[Any, Any]:
        if any(type(pair) is not list or len(pair) != 2 for pair in pairs):
            raise BadEncoding("a dictionary is a list of pairs")
        _check_hashes([key for key, _ in pairs])
        return dict(self._watched(pairs))

    def _watched(self, members: list[Any]) -> list[Any] | Iterator[Any]:
        return members if len(members) <= _UNWATCHED else self._watch(members)

    def _watch(self, members: list[Any]) -> Iterator[Any]:
        """Yield the members of a table under construction; raises BadEncoding if it takes too long."""
        last = time.thread_time()
        for start in range(0, len(members), _UNWATCHED):
            yield from members[start : start + _UNWATCHED]
            now = time.thread_time()
            self._left += _UNWATCHED * _MEMBER_S - (now - last)
            last = now
            if self._left < 0:
                raise BadEncoding("elements that get in each other's way")


def _check_hashes(items: list[Any]) -> None:
    """Raise BadEncoding if a hash table would not take linear time, TypeError for unhashable members.

    Hashes of integers and tuples are predictable: a set of multiples of 2**61 - 1 would take quadratic time.
    """
    hashes = sorted(map(hash, items))
    for first, later in zip(hashes, hashes[MAX_EQUAL_HASHES:], strict=False):
        if first == later:
            raise BadEncoding("too many elements share a hash")


_ENCODER = json.JSONEncoder(separators=(",", ":"), check_circular=False)
