"""Where the JSON lists and objects begin that a text ends with, found in one pass from its end.

To try each place where one may begin takes time that is quadratic in the length of the text, and a model that
repeats itself writes thousands of them. Seen from the end, which is in no string, each quote tells whether
what stands before it is in one, and each bracket that closes has one that opens.
"""

from __future__ import annotations

import re

SPACE = "; \t\r\n"
"""What separates the calls of a response."""
_TOKENS = re.compile(r'\\.|["{}\[\]]', re.DOTALL)
_TURNS = {'"': 0, "}": 1, "]": 1, "{": -1, "[": -1}


def last_values(text: str, end: int) -> list[int]:
    """Return where the lists and objects begin that stand right before a position, the last one first.

    Nothing but ``SPACE`` is between them. Whether they are JSON is for its reader to say: only the number of
    their brackets, outside of strings, is right.
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
