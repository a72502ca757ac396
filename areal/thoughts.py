"""The marked thoughts of a model in its text. All code that knows the marks is here.

A thought begins with ``<think>``, at the beginning of a response or, with some chat templates, at the end of
its prompt. It ends with the first ``</think>``. In a text with unknown prompt and template, only this mark
shows that the text before it is a thought.
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
"""The marks that end a thought in texts of models with unknown templates."""
_WHOLE = re.compile(f"{OPEN}(?:(?!{OPEN}).)*?{CLOSE}", re.DOTALL)

ThoughtEnd = Literal["own", "budget", "none"]
"""How a thought ended: the model ended it, its budget was used up, or the response ended within it."""


class Thought(NamedTuple):
    """The thought of one response.

    Attributes:
        tokens: number of tokens of the thought, including marks and tokens inserted to end it; 0: no thought,
            although the chat template has thoughts.
        end: how it ended.
    """

    tokens: int
    end: ThoughtEnd


def marks_thoughts(template: str | None) -> bool:
    """Return whether a chat template knows the marks, so that the model does not use them as words."""
    return template is not None and CLOSE in template


def begins_thought(content: str, prompt: str) -> bool:
    """Return whether a response begins with a thought, or its prompt ends with the beginning of one."""
    return content.lstrip().startswith(OPEN) or prompt.rstrip().endswith(OPEN)


def may_begin_thought(text: str) -> bool:
    """Return whether a partial response has no words and no complete mark yet, so that it may still think."""
    return OPEN.startswith(text.lstrip()) and text.lstrip() != OPEN


def may_end_thought(text: str) -> bool:
    """Return whether a text ends within ``</think>``, given the text that follows."""
    return any(text.endswith(CLOSE[:n]) for n in range(1, len(CLOSE)))


def thought_length(content: str, prompt: str) -> int:
    """Return the number of characters of the thought in a response, including marks; 0: no thought.

    Args:
        prompt: its prompt, in which a template may begin the thought.
    """
    if not begins_thought(content, prompt):
        return 0
    end = content.find(CLOSE)
    return len(content) if end < 0 else end + len(CLOSE)


def thought_of(
    ids: list[int], prompt: str, decode: Callable[[list[int]], str], close: int | None
) -> Thought | None:
    """Return the thought of a response whose chat template marks thoughts; None: its prompt excludes them.

    Args:
        ids: of the response.
        prompt: its prompt.
        decode: returns the text of tokens.
        close: the token ``</think>``, if there is one, which saves the search for the mark.
    """
    text = decode(ids)
    if not thought_length(text, prompt):
        return None if prompt.rstrip().endswith(CLOSE) else Thought(0, "own")
    if CLOSE not in text:
        return Thought(len(ids), "none")
    longest = ids.index(close) + 1 if close is not None and close in ids else len(ids)
    if longest < len(ids) and CLOSE not in decode(ids[: longest - 1]):
        return Thought(longest, "own")
    # The mark takes several tokens, and the last of them may also contain the first of the words.
    return Thought(bisect_left(range(longest), True, key=lambda n: CLOSE in decode(ids[:n])), "own")


def measured(thoughts: Iterable[Thought | None]) -> dict[str, float]:
    """Return the mean length of thoughts, and how they end; an empty dict if there are none.

    Returns:
        ``thought``: mean tokens; ``thought_unended`` and ``thought_cut``: the share of thoughts without an
            end, and of those that the budget ended.
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
    """Return a text of several turns without thoughts and white space, for comparisons."""
    return "".join(_WHOLE.sub("", text).split())


def split_thought(content: str, length: int) -> tuple[str, str]:
    """Return the thought of a response, without its marks, and its words."""
    thought = content[:length].strip().removeprefix(OPEN).removesuffix(CLOSE).strip("\n")
    return thought, content[length:].lstrip("\n") if length else content


def words_of(text: str) -> str:
    """Return the text after the thought at the beginning of a response; empty if the thought has no end."""
    return text.partition(CLOSE)[2].lstrip()


def after_thought(text: str) -> str:
    """Return the text after the thought in a text with unknown prompt; the whole text if no thought ends."""
    thought, end, rest = text.partition(CLOSE)
    return rest if end else thought


def after_any_thought(text: str) -> str:
    """Do the same for a text of any model: return what follows the last mark that ends a thought."""
    ends = [found.end() for found in _OTHER_CLOSE.finditer(text)]
    return text[ends[-1] :] if ends else text


def ends_thought(text: str) -> bool:
    """Return whether a text contains a mark that ends a thought."""
    return _OTHER_CLOSE.search(text) is not None
