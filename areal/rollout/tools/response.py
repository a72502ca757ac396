"""Converts sampled tokens to text and calls, in the format of the model."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from areal.agents.interface import Tool
from areal.rollout.tools.formats import Format, split_calls
from areal.rollout.tools.reading import Split, ToolCall
from areal.thoughts import CLOSE, OPEN


@dataclass(frozen=True, slots=True)
class Response:
    """A sampled response.

    Attributes:
        said: its text, including marks of calls, without the token that ended it.
        text: its text without special tokens.
        words: the part of the text that is not a call.
        calls: its tool calls.
    """

    said: str
    text: str
    words: str
    calls: Sequence[ToolCall] = ()


class ResponseReader:
    """Reads responses. Marks of calls may be special tokens, which are read but not shown.

    Args:
        eos: every token that ends a turn.
        shown: returns the text of tokens without special ones.
    """

    def __init__(self, tokenizer: Any, eos: Sequence[int], shown: Callable[[list[int]], str]) -> None:
        self._tokenizer = tokenizer
        self._eos = eos
        self._shown = shown

    def read(self, ids: list[int], known: Format | None, tools: Sequence[Tool], prompt: str) -> Response:
        """Read a response: its text, and its tool calls if all are valid.

        Args:
            known: the format of its calls; None: unknown.
            prompt: the prompt of the response.
        """
        text = self._shown(ids)
        ended = bool(ids) and ids[-1] in self._eos
        said = self._tokenizer.decode(ids[:-1] if ended else ids)
        found = None if known is None else split_calls(said, known, tools, prompt)
        if known is None or found is None:
            return Response(said, text, text)
        words = self._special.sub("", found[0])
        return Response(said, words if known.whole else text, words, found[1])

    @cached_property
    def _special(self) -> re.Pattern[str]:
        """Matches special tokens, except those of thoughts."""
        added = self._tokenizer.added_tokens_decoder.values()
        special = [token.content for token in added if token.special and token.content not in (OPEN, CLOSE)]
        return re.compile("|".join(map(re.escape, special)) or r"(?!)")


def words_and_calls(said: str, known: Format | None, tools: Sequence[Tool], prompt: str) -> Split:
    """Return the text of a response, without surrounding space, and its calls, if all are valid."""
    found = None if known is None else split_calls(said, known, tools, prompt)
    return (said.strip(), []) if found is None else (found[0].strip(), found[1])
