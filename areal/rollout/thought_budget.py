"""A budget of thoughts: a thought that has used it up is ended, and the same response goes on.

A response is sampled up to the budget first. If it is still thinking then, the tokens of a fixed text that
ends thoughts are put in, and the rest is sampled behind them; if it is not, the rest is sampled right away.
The tokens put in are context, as a prompt's: nothing sampled them. Each token that was sampled has its
log-probability behind all that stands before it, as the learner computes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from areal.agents.interface import BadRequest
from areal.images import Image
from areal.rollout.engine import Completion, Sampler, Sampling, known_experts
from areal.rollout.seeds import derive
from areal.thoughts import Thought

_SECOND_PART = -1
"""Tells its seed from those of calls, which are numbered from 0."""


class _Reader(Protocol):
    """What :class:`areal.rollout.rendering.Renderer` knows of responses."""

    thought_end_ids: list[int]
    marks_thoughts: bool

    def decode(self, ids: list[int]) -> str: ...

    def thought_of(self, ids: list[int], prompt: str) -> Thought | None: ...


async def sample_response(
    engine: Sampler,
    ids: list[int],
    sampling: Sampling,
    reader: _Reader,
    prompt: str,
    images: Sequence[Image] = (),
) -> Completion:
    """Sample a response whose thought is no longer than ``sampling.thinking_budget``.

    Where ``sampling.max_tokens`` leaves no room for a word behind a thought that was ended, it is the only
    bound. What conforms to a schema is no thought.

    Args:
        ids: the tokens of the prompt.
        prompt: its text.
        images: that are among them.

    Raises:
        BadRequest: no thought would be known, or the sampling has penalties that tell the response from the
            prompt.
    """
    budget, ending = sampling.thinking_budget, reader.thought_end_ids
    whole = replace(sampling, thinking_budget=None)
    if budget is not None and not reader.marks_thoughts:
        raise BadRequest("the model's chat template marks no thoughts, so that none can be ended")
    if budget is None or sampling.schema or budget + len(ending) >= sampling.max_tokens:
        return await engine.generate(ids, whole, images=images)
    if sampling.presence_penalty or sampling.frequency_penalty:
        raise BadRequest(
            "presence_penalty and frequency_penalty are for a response in one piece, which a budget of "
            "thoughts may divide; leave them out, or the budget (thinking_token_budget=-1)"
        )
    first = await engine.generate(ids, replace(whole, max_tokens=budget), images=images)
    if first.finish != "length":
        return first
    thought = reader.thought_of(first.ids, prompt)
    given = ending if thought is not None and thought.end == "none" else []
    rest = replace(
        whole,
        max_tokens=sampling.max_tokens - len(first.ids) - len(given),
        seed=None if sampling.seed is None else derive(sampling.seed, _SECOND_PART),
    )
    second = await engine.generate([*ids, *first.ids, *given], rest, images=images)
    if not given:
        second = _stopped(first, second, sampling.stop, reader)
    return Completion(
        [*first.ids, *given, *second.ids],
        [*first.logprobs, *[0.0] * len(given), *second.logprobs],
        [*first.versions, *[-1] * len(given), *second.versions],
        second.finish,
        known_experts(first.experts, second.experts),
    )


def was_cut(completion: Completion) -> bool:
    """Whether the thought of a response was ended because its budget was used up."""
    return -1 in completion.versions


def _stopped(first: Completion, second: Completion, stop: tuple[str, ...], reader: _Reader) -> Completion:
    """Return the second part up to where a stop string ends that begins in the first one.

    The engine does not see it, as it takes the first part for prompt. What follows it was not to be sampled.
    """
    if not stop:
        return second
    longest = max(map(len, stop))
    known = first.ids[-4 * longest :]  # a character has at most 4 bytes, and a token at least one
    begun = len(reader.decode(known))
    for n in range(1, len(second.ids) + 1):
        text = reader.decode([*known, *second.ids[:n]])
        if any(-1 < text.find(end, max(0, begun - len(end) + 1)) < begun for end in stop):
            ids, logprobs, versions = second.ids[:n], second.logprobs[:n], second.versions[:n]
            return replace(second, ids=ids, logprobs=logprobs, versions=versions, finish="stop")
        if len(text) >= begun + longest:
            break
    return second
