"""Tokens in, tokens out: one conversation as ids that only grow.

What was sampled is trained on, token for token: the model's ids are never decoded and encoded again. Each
observation is rendered to exactly the ids that the chat template puts after the assistant's turn.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from areal.rollout.engine import Completion

_OPENINGS = 256
"""Rendered openings to remember: more than the groups that begin at once."""
_ANSWER = "\u2603answer\u2603"
"""A stand-in for the assistant's turn, to see what a template puts around it."""


class Renderer:
    """Turns messages into ids with a tokenizer's chat template (or plain text where it has none)."""

    def __init__(self, tokenizer: Any, ends: tuple[int, ...]) -> None:
        self._tokenizer = tokenizer
        self._ends = ends
        # The members of a group begin with the same words, at about the same time.
        self._opening = lru_cache(_OPENINGS)(self._render_opening)

    def opening(self, messages: list[dict[str, str]]) -> list[int]:
        """Ids of a new conversation, up to where the assistant speaks."""
        return list(self._opening(tuple((m["role"], m["content"]) for m in messages)))

    def _render_opening(self, messages: tuple[tuple[str, str], ...]) -> list[int]:
        if self._tokenizer.chat_template is None:
            return self._encode("".join(content for _, content in messages))
        return self._encode(self._text([{"role": role, "content": content} for role, content in messages]))

    def continuation(self, observation: str, last_token: int) -> list[int]:
        """Ids from the end of the assistant's sampled tokens to where it speaks again.

        Args:
            observation: what the user (the environment) says next.
            last_token: the last sampled token; where it already ends the turn, that end is not repeated.
        """
        if self._tokenizer.chat_template is None:
            return self._encode(observation)
        turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
        text = self._text([*turns, {"role": "user", "content": observation}])
        _, found, tail = text.rpartition(_ANSWER)
        if not found:
            raise ValueError("the chat template does not keep the assistant's words: it cannot be multi-turn")
        end = self._tokenizer.decode([last_token]) if last_token in self._ends else ""
        return self._encode(tail.removeprefix(end) if end else tail)

    def decode(self, ids: list[int]) -> str:
        """Text of sampled ids, without special tokens."""
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def _text(self, messages: list[dict[str, str]]) -> str:
        return self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def _encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=self._tokenizer.chat_template is None)


def eos_ids(tokenizer: Any, generation_config: Any = None) -> tuple[int, ...]:
    """Every token that ends a turn: the tokenizer's own and those of a generation configuration."""
    found: list[int] = []
    for value in (tokenizer.eos_token_id, getattr(generation_config, "eos_token_id", None)):
        found.extend([value] if isinstance(value, int) else value or [])
    if not found:
        raise ValueError("the tokenizer has no end-of-sequence token")
    return tuple(dict.fromkeys(found))


class Conversation:
    """The growing ids of one conversation, with what the learner must know of each."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self._mask: list[bool] = []
        self._logprobs: list[float] = []
        self._versions: list[int] = []
        self.turns: list[int] = []

    def say(self, ids: list[int]) -> None:
        """Append tokens that the policy did not sample."""
        self._append(ids, False, [0.0] * len(ids), [-1] * len(ids))

    def hear(self, completion: Completion) -> None:
        """Append a sampled continuation."""
        self.turns.append(len(self.ids))
        self._append(completion.ids, True, completion.logprobs, completion.versions)

    def arrays(self) -> dict[str, np.ndarray]:
        """``tokens, loss_mask, logprobs, versions`` as :class:`areal.trajectory.Trajectory` wants them."""
        return {
            "tokens": np.asarray(self.ids, dtype=np.int32),
            "loss_mask": np.asarray(self._mask, dtype=bool),
            "logprobs": np.asarray(self._logprobs, dtype=np.float32),
            "versions": np.asarray(self._versions, dtype=np.int32),
        }

    def _append(self, ids: list[int], sampled: bool, logprobs: list[float], versions: list[int]) -> None:
        self.ids.extend(ids)
        self._mask.extend([sampled] * len(ids))
        self._logprobs.extend(logprobs)
        self._versions.extend(versions)
