"""Tokens in, tokens out: a conversation as token ids that only grow.

Each sampled token is trained on exactly as sampled, and once: in a branch of a conversation, the shared
tokens are only context.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from areal.agents.interface import Message, Tool
from areal.images import Image, shifted
from areal.rollout.engine import Completion
from areal.rollout.rendering import Prompt
from areal.thoughts import Thought
from areal.trajectory import Finish, Trajectory


@dataclass(frozen=True, slots=True)
class TurnEnd:
    """The end of a sampled turn, from which a conversation may continue or branch, and its extent.

    Attributes:
        messages: number of messages up to it, including the response.
        tokens: number of tokens up to it, including the response.
        prompt_chars: number of characters of the prompt's text, without the response.
        tools: the tools in the prompt.
    """

    messages: int
    tokens: int
    prompt_chars: int
    tools: Sequence[Tool] = ()


class Conversation:
    """The growing ids of one conversation, with the learner's data for each.

    Args:
        origin: the conversation from which this one branches off; its tokens up to ``end`` are context here.
        end: the turn of ``origin`` after which it branches off.

    Attributes:
        ids: all tokens.
        images: the images whose placeholders are among them.
        prompt_text: the text of the last response's prompt.
        messages: all messages; responses include their sampled text (``messages.SAID``).
        turn_ends: the end of each turn that was sampled here.
        busy: whether its next response is being sampled.
    """

    def __init__(self, origin: Conversation | None = None, end: TurnEnd | None = None) -> None:
        self.ids: list[int] = []
        self.images: list[Image] = []
        self.prompt_text = ""
        self.messages: list[Message] = []
        self.turn_ends: list[TurnEnd] = []
        self.busy = False
        self._mask: list[bool] = []
        self._logprobs: list[float] = []
        self._versions: list[int] = []
        self._experts: list[np.ndarray] = []
        self._turns: list[int] = []
        self._calls: list[int] = []
        self._rewards: list[float] = []
        self._thoughts: list[Thought | None] = []
        self._finish: Finish = "eos"
        if origin is not None and end is not None:
            self.append_prompt(
                origin.ids[: end.tokens], [image for image in origin.images if image.start < end.tokens]
            )
            self._append_experts(origin.experts)

    def append_prompt(self, ids: Sequence[int], images: Sequence[Image] = ()) -> None:
        """Append tokens that the policy did not sample, and the images among them."""
        self.images.extend(shifted(images, len(self.ids)))
        self._append(ids, [False] * len(ids), [0.0] * len(ids), [-1] * len(ids))

    def append_completion(self, completion: Completion, call: int, thought: Thought | None = None) -> None:
        """Append the response to the episode's ``call``-th call, and the part of it that is its thought."""
        self._turns.append(len(self.ids))
        self._calls.append(call)
        self._rewards.append(0.0)
        self._thoughts.append(thought)
        self._finish = completion.finish
        sampled = [version >= 0 for version in completion.versions]
        self._append(completion.ids, sampled, completion.logprobs, completion.versions)
        self._append_experts(completion.experts)

    def end_turn(self, prompt: Prompt, messages: list[Message], tools: Sequence[Tool] = ()) -> TurnEnd:
        """Set the messages, which end with the response just appended, and the prompt of that response."""
        self.prompt_text, self.messages = prompt.text, messages
        self.turn_ends.append(TurnEnd(len(messages), len(self.ids), len(prompt.text), tools))
        return self.turn_ends[-1]

    def continues_from(self, end: TurnEnd) -> bool:
        """Return whether the next response at this end may join this conversation; if not, it is a branch."""
        return end is self.turn_ends[-1] and not self.busy

    def credit(self, reward: float) -> None:
        """Add to the reward of the last turn."""
        self._rewards[-1] += reward

    @property
    def experts_known(self) -> int:
        """Number of its first tokens whose experts are known."""
        return sum(map(len, self._experts))

    @property
    def experts(self) -> np.ndarray | None:
        """The experts of its first tokens; see :class:`areal.trajectory.Trajectory`."""
        return np.concatenate(self._experts) if self._experts else None

    def trajectory(self) -> Trajectory:
        """Return the conversation in the form of the learner."""
        return Trajectory(
            tokens=np.asarray(self.ids, dtype=np.int32),
            loss_mask=np.asarray(self._mask, dtype=bool),
            logprobs=np.asarray(self._logprobs, dtype=np.float32),
            versions=np.asarray(self._versions, dtype=np.int32),
            finish=self._finish,
            turns=list(self._turns),
            calls=list(self._calls),
            rewards=list(self._rewards),
            images=list(self.images),
            thoughts=list(self._thoughts),
            experts=self.experts,
        )

    def _append_experts(self, experts: np.ndarray | None) -> None:
        """Add the experts of the first tokens that have none yet."""
        if experts is not None and len(new := experts[: len(self.ids) - self.experts_known]):
            self._experts.append(new)

    def _append(
        self,
        ids: Sequence[int],
        sampled: Sequence[bool],
        logprobs: Sequence[float],
        versions: Sequence[int],
    ) -> None:
        self.ids.extend(ids)
        self._mask.extend(sampled)
        self._logprobs.extend(logprobs)
        self._versions.extend(versions)
