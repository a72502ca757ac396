"""What a model thinks before it speaks, where that is marked in its text. All that knows the marks is here.

A thought begins with ``<think>``, at the beginning of a response or at the end of its prompt, where some chat
templates put it; it ends with the first ``</think>``. Of a text whose prompt and template are not known, that
mark alone says that what precedes it was thought.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

OPEN, CLOSE = "<think>", "</think>"
_OTHER_CLOSE = re.compile(
    r"</(?:\w+:)?think(?:ing)?>|</thought>|\[/THINK\]|<\|end_of_thought\|>", re.IGNORECASE
)
"""What ends a thought in the texts of models whose templates are not known."""
_WHOLE = re.compile(f"{OPEN}(?:(?!{OPEN}).)*?{CLOSE}", re.DOTALL)

ThoughtEnd = Literal["own", "budget", "none"]
"""How a thought ended: the model ended it, its budget was used up, or the response ended within it."""


class Thought(NamedTuple):
    """The thought of one response.

    Attributes:
        tokens: of the response that are its thought, marks and what was put in to end it included; 0: it did
            not think, although its chat template has it.
        end: how it ended.
    """

    tokens: int
    end: ThoughtEnd


def marks_thoughts(template: str | None) -> bool:
    """Whether a chat template knows the marks, so that they are no words of the model's."""
    return template is not None and CLOSE in template


def begins_thought(content: str, prompt: str) -> bool:
    """Whether a response begins with a thought, or its prompt ended with the beginning of one."""
    return content.lstrip().startswith(OPEN) or prompt.rstrip().endswith(OPEN)


def may_begin_thought(text: str) -> bool:
    """Whether the beginning of a response has no words yet, and no whole mark, so that it may still think."""
    return OPEN.startswith(text.lstrip()) and text.lstrip() != OPEN


def may_end_thought(text: str) -> bool:
    """Whether a text ends within ``</think>``, if what follows is the rest of it."""
    return any(text.endswith(CLOSE[:n]) for n in range(1, len(CLOSE)))


def thought_length(content: str, prompt: str) -> int:
    """Return how many characters of a response are its thought, marks included; 0: it did not think.

    Args:
        prompt: what it responds to; a template may have begun the thought there.
    """
    if not begins_thought(content, prompt):
        return 0
    end = content.find(CLOSE)
    return len(content) if end < 0 else end + len(CLOSE)


def thought_of(
    ids: list[int], prompt: str, decode: Callable[[list[int]], str], close: int | None
) -> Thought | None:
    """Return the thought of a response whose chat template marks thoughts; None: its prompt rules them out.

    Args:
        ids: of the response.
        prompt: what it responds to.
        decode: returns the text of tokens.
        close: the token that is ``</think>``, where there is one: it saves looking for the mark.
    """
    text = decode(ids)
    if not thought_length(text, prompt):
        return None if prompt.rstrip().endswith(CLOSE) else Thought(0, "own")
    if CLOSE not in text:
        return Thought(len(ids), "none")
    longest = ids.index(close) + 1 if close is not None and close in ids else len(ids)
    if longest < len(ids) and CLOSE not in decode(ids[: longest - 1]):
        return Thought(longest, "own")
    # Spelled in several tokens, whose last one may be the beginning of the words, too.
    return Thought(bisect_left(range(longest), True, key=lambda n: CLOSE in decode(ids[:n])), "own")


def measured(thoughts: Iterable[Thought | None]) -> dict[str, float]:
    """Return how long thoughts are on average, and how they end; nothing if there are none.

    Returns:
        ``thought``: mean tokens; ``thought_unended`` and ``thought_cut``: shares of those without an end, and
        of those that were ended because their budget was used up.
    """
    found = [thought for thought in thoughts if thought is not None]
    ends = [thought.end for thought in found]
    if not found:
        return {}
    return {
        "thought": sum(thought.tokens for thought in found) / len(found),
        "thought_unended": ends.count("none") / len(found),
        "thought_cut": ends.count("budget") / len(found),
    }


def without_thoughts(text: str) -> str:
    """Return a text of several turns without its thoughts, and without white space, to compare it."""
    return "".join(_WHOLE.sub("", text).split())


def split_thought(content: str, length: int) -> tuple[str, str]:
    """Return a response's thought, without its marks, and its words."""
    thought = content[:length].strip().removeprefix(OPEN).removesuffix(CLOSE).strip("\n")
    return thought, content[length:].lstrip("\n") if length else content


def words_of(text: str) -> str:
    """Return what follows the thought that a response begins with; empty if that has no end."""
    return text.partition(CLOSE)[2].lstrip()


def after_thought(text: str) -> str:
    """Return what follows the thought of a text whose prompt is not known; all of it if no thought ends."""
    thought, end, rest = text.partition(CLOSE)
    return rest if end else thought


def after_any_thought(text: str) -> str:
    """Return the same of a text of any model: what follows the last of all the marks that end thoughts."""
    ends = [found.end() for found in _OTHER_CLOSE.finditer(text)]
    return text[ends[-1] :] if ends else text


def ends_thought(text: str) -> bool:
    """Whether any mark that ends a thought is in a text."""
    return _OTHER_CLOSE.search(text) is not None
