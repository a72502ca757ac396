"""The space of all text."""

from __future__ import annotations

import string
import sys
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from gymnasium.spaces import Text
from gymnasium.vector.utils import read_from_shared_memory, write_to_shared_memory

_SAMPLED = 256
"""Maximum length of a random sample, in characters."""


class _Unicode(Sequence[str]):
    """Every character, in order, without storing any of them."""

    def __len__(self) -> int:
        return sys.maxunicode + 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [chr(i) for i in range(len(self))[index]]
        return chr(index)

    def __contains__(self, value: object) -> bool:
        return isinstance(value, str) and len(value) == 1


class UnicodeText(Text):
    """Any string of up to ``max_length`` characters; samples are printable ASCII.

    Gymnasium's ``Text`` lists its characters. This space contains all characters, and the index of a
    character is its code point. It also works in ``AsyncVectorEnv`` with shared memory.
    """

    def __init__(self, max_length: int, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(max_length, min_length=0, charset=string.printable, seed=seed)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """Return a random string of printable ASCII; raises ValueError if given a mask."""
        if mask is not None or probability is not None:
            raise ValueError("a space of all Unicode strings does not support masks")
        length = self.np_random.integers(0, min(self.max_length, _SAMPLED) + 1)
        return "".join(self.np_random.choice(list(string.printable), size=length))

    def contains(self, x: Any) -> bool:
        """Return whether ``x`` is a string within the maximum length."""
        return isinstance(x, str) and len(x) <= self.max_length

    def character_index(self, char: str) -> np.int32:
        """Return the code point of a character."""
        return np.int32(ord(char))

    @property
    def character_list(self) -> Any:
        """All characters, in the order of their indices."""
        return _Unicode()

    @property
    def character_set(self) -> Any:
        """All characters."""
        return _Unicode()

    def __repr__(self) -> str:
        return f"UnicodeText({self.max_length})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnicodeText) and self.max_length == other.max_length

    __hash__ = None  # type: ignore[assignment]  # as for every space, because it has a random state


class _LiveTexts(Sequence[str]):
    """The last observations of the workers of an ``AsyncVectorEnv``.

    The vector environment reads its shared memory once, when it is created, and treats the result as a view
    that changes; a step returns a copy of it.
    """

    def __init__(self, memory: Any, count: int, max_length: int) -> None:
        self._memory = memory
        self._shape = (count, max_length)

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return tuple(self)[index]
        row = _codes(self._memory).reshape(self._shape)[index]
        end = np.flatnonzero(row == 0)
        text = row[: end[0]] if len(end) else row
        return (text - 1).astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")

    def __deepcopy__(self, memo: dict[int, Any]) -> tuple[str, ...]:
        return tuple(self)

    def __repr__(self) -> str:
        return repr(tuple(self))


def _codes(memory: Any) -> np.ndarray:
    """Return the shared memory of a space: the code point of each character + 1, and 0 after the last one."""
    return np.frombuffer(memory.get_obj(), dtype=np.int32)


@read_from_shared_memory.register(UnicodeText)
def _read(space: UnicodeText, shared_memory: Any, n: int = 1) -> _LiveTexts:
    return _LiveTexts(shared_memory, n, space.max_length)


@write_to_shared_memory.register(UnicodeText)
def _write(space: UnicodeText, index: int, value: str, shared_memory: Any) -> None:
    start = index * space.max_length
    row = _codes(shared_memory)[start : start + space.max_length]
    codes = np.frombuffer(value.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    row[: len(codes)] = codes + 1
    row[len(codes) :] = 0
