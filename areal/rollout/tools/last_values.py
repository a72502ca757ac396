"""Finds the starts of the JSON lists and objects at the end of a text, in one pass from its end.

Trying each possible start takes time quadratic in the length of the text, and a model that repeats itself
writes thousands of them. From the end, which is not in a string, each quote shows whether the text before it
is in a string, and each closing bracket has an opening one.
"""

from __future__ import annotations

import re

SPACE = "; \t\r\n"
"""Characters that separate the calls of a response."""
_TOKENS = re.compile(r'\\.|["{}\[\]]', re.DOTALL)
_TURNS = {'"': 0, "}": 1, "]": 1, "{": -1, "[": -1}


def last_values(text: str, end: int) -> list[int]:
    """Return the starts of the lists and objects that directly precede a position, the last one first.

    Only ``SPACE`` is between them. Their reader decides whether they are JSON; here, only the brackets
    outside of strings are balanced.
    """
    found: list[int] = []
    depth, in_string, behind = 0, False, end
    for token in reversed(list(_TOKENS.finditer(text, 0, end))):
        kind = token[0]
        if kind == '"':
            in_string = not in_string
        if kind not in _TURNS or (in_string and kind != '"'):
            continue
        if depth == 0 and (_TURNS[kind] != 1 or text[token.end() : behind].strip(SPACE)):
            break
        depth += _TURNS[kind]
        if depth == 0:
            behind = token.start()
            found.append(behind)
    return found
