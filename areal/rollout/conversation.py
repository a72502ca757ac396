"""Tokens in, tokens out: one conversation as ids that only grow.

What was sampled is trained on, token for token, once: a branch of a conversation has the tokens that the two
share as context only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from areal.agents.interface import Message
from areal.rollout.engine import Completion
from areal.rollout.rendering import Prompt
from areal.trajectory import Finish, Trajectory


@dataclass(frozen=True, slots=True)
class Cut:
    """The end of a response, where a conversation may go on: how much of it lies before.

    Attributes:
        messages: with the response.
        ids: with the response.
        prompt: characters of the prompt's text, without the response.
    """

    messages: int
    ids: int
    prompt: int


class Conversation:
    """The growing ids of one conversation, with what the learner must know of each.

    Attributes:
        ids: all tokens.
        text: the prompt of the last response, as text.
        spoken: the messages, with the sampled text as the content of each response.
        cuts: one for each turn that was sampled here.
        busy: whether its next response is being sampled.
    """

    def __init__(self, origin: Conversation | None = None, cut: Cut | None = None) -> None:
        self.ids: list[int] = []
        self.text = ""
        self.spoken: list[Message] = []
        self.cuts: list[Cut] = []
        self.busy = False
        self._mask: list[bool] = []
        self._logprobs: list[float] = []
        self._versions: list[int] = []
        self._turns: list[int] = []
        self._calls: list[int] = []
        self._rewards: list[float] = []
        self._finish: Finish = "eos"
        if origin is not None and cut is not None:
            self.say(origin.ids[: cut.ids])

    def say(self, ids: Sequence[int]) -> None:
        """Append tokens that the policy did not sample."""
        self._append(ids, False, [0.0] * len(ids), [-1] * len(ids))

    def hear(self, completion: Completion, call: int) -> None:
        """Append a sampled continuation: the response to the episode's ``call``-th call."""
        self._turns.append(len(self.ids))
        self._calls.append(call)
        self._rewards.append(0.0)
        self._finish = completion.finish
        self._append(completion.ids, True, completion.logprobs, completion.versions)

    def remember(self, prompt: Prompt, spoken: list[Message]) -> Cut:
        """Note the messages up to the response just heard, and the text of its prompt."""
        self.text, self.spoken = prompt.text, spoken
        self.cuts.append(Cut(len(spoken), len(self.ids), len(prompt.text)))
        return self.cuts[-1]

    def goes_on_from(self, cut: Cut) -> bool:
        """Whether the next response there may be part of this conversation; else it is a branch of it."""
        return cut is self.cuts[-1] and not self.busy

    def credit(self, reward: float) -> None:
        """Add to what the last turn earned."""
        self._rewards[-1] += reward

    def trajectory(self) -> Trajectory:
        """Return the conversation as the learner wants it."""
        return Trajectory(
            tokens=np.asarray(self.ids, dtype=np.int32),
            loss_mask=np.asarray(self._mask, dtype=bool),
            logprobs=np.asarray(self._logprobs, dtype=np.float32),
            versions=np.asarray(self._versions, dtype=np.int32),
            finish=self._finish,
            turns=list(self._turns),
            calls=list(self._calls),
            rewards=list(self._rewards),
        )

    def _append(
        self, ids: Sequence[int], sampled: bool, logprobs: Sequence[float], versions: Sequence[int]
    ) -> None:
        self.ids.extend(ids)
        self._mask.extend([sampled] * len(ids))
        self._logprobs.extend(logprobs)
        self._versions.extend(versions)
