"""The text of each token of a conversation, letters of several tokens kept whole."""

from __future__ import annotations

from collections.abc import Sequence

from areal.viewer.rollouts import Decode

_PENDING = 16
"""Tokens that may wait for the end of a letter, more than any has; bytes that end none stay as they are."""


def pieces(ids: Sequence[int], decode: Decode) -> list[str]:
    """Return the text of each token; together they are the text of all.

    A letter of several tokens belongs to the one in which it ends; those before it are empty. Each token is
    decoded after those of the letter before, since some tokenizers write a token otherwise at the beginning.
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
