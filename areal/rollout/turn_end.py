"""Checks that a model stops where its chat template ends a turn; otherwise no response ends on its own."""

from __future__ import annotations

from typing import Any

from areal.agents.interface import Message
from areal.rollout.rendering import Renderer

_QUESTION, _ANSWER, _NEXT = "What is 2 + 3?", "It is 5.", "And 2 + 4?"
_SHOWN = 20
"""Maximum characters of a template's text after a turn."""


def stops(tokenizer: Any, renderer: Renderer) -> list[str]:
    """Return the texts of the tokens at which the model stops."""
    return [tokenizer.decode([token]) for token in renderer.eos_ids]


def missed_end(tokenizer: Any, renderer: Renderer) -> str | None:
    """Return the template's end of a turn, if the model does not stop there.

    None: it stops; or it is unknown, because the template drops earlier turns or renders them differently.

    Raises:
        BadRequest: the template refuses a conversation of two turns.
    """
    said: list[Message] = [
        {"role": "user", "content": _QUESTION},
        {"role": "assistant", "content": _ANSWER},
        {"role": "user", "content": _NEXT},
    ]
    before, found, _ = renderer.opening(said).text.rpartition(_NEXT)
    _, kept, behind = before.rpartition(_ANSWER)
    if not found or not kept or (renderer.tools.format is not None and renderer.tools.format.whole):
        return None
    ends = any(behind.lstrip().startswith(end) for end in stops(tokenizer, renderer))
    return None if ends else behind[:_SHOWN]
