"""The text of each token of a conversation; characters of several tokens stay whole."""

from __future__ import annotations

from collections.abc import Sequence

from areal.viewer.rollouts import Decode

_PENDING = 16
"""Number of tokens that may wait for the end of a character; bytes that form none stay as they are."""


def pieces(ids: Sequence[int], decode: Decode) -> list[str]:
    """Return the text of each token; together they form the whole text.

    A character of several tokens belongs to the last one; the earlier ones are empty. Each token is decoded
    after those of the previous character, because some tokenizers decode a token differently at the
    beginning.
    """
    found: list[str] = []
    begin = read = 0
    for upto in range(1, len(ids) + 1):
        before, text = decode(list(ids[begin:read])), decode(list(ids[begin:upto]))
        whole = not text.endswith("\ufffd") or upto - read >= _PENDING or upto == len(ids)
        if whole and len(text) > len(before):
            found.append(text[len(before) :])
            begin, read = read, upto
        else:
            found.append("")
    return found
