"""A budget of thoughts: a thought that has used it up is ended, and the same response goes on.

A response is sampled up to the budget first. If it is still thinking then, the tokens of a fixed text that
ends thoughts are put in, and the rest is sampled behind them; if it is not, the rest is sampled right away.
Where that is not known yet, a part more is sampled first.
The tokens put in are context, as a prompt's: nothing sampled them. Each token that was sampled has its
log-probability behind all that stands before it, as the learner computes it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from typing import Protocol

import numpy as np

from areal.agents.interface import BadRequest
from areal.images import Image
from areal.rollout.engine import Completion, Sampler, Sampling
from areal.rollout.seeds import derive
from areal.thoughts import Thought, may_begin_thought, may_end_thought


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

    White space before it does not count, nor what it takes to end its mark once it has begun that. A stop
    string ends the response in what is put in, too, as with vLLM's own budgets. Where
    ``sampling.max_tokens`` leaves no room for a word behind a thought that was ended, it is the only bound.
    What conforms to a schema is no thought.

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
        raise BadRequest("the model's chat template does not mark thoughts, so areal cannot limit them")
    if budget is None or sampling.schema or budget + len(ending) >= sampling.max_tokens:
        return await engine.generate(ids, whole, images=images)
    if sampling.presence_penalty or sampling.frequency_penalty:
        raise BadRequest(
            "presence_penalty and frequency_penalty cannot be combined with a thinking budget, because it "
            "divides the response; remove the penalties, or the budget (thinking_token_budget=-1)"
        )
    said = await engine.generate(ids, replace(whole, max_tokens=budget), images=images)
    for part in count(1):
        if said.finish != "length":
            break
        thought = reader.thought_of(said.ids, prompt)
        thinks = thought is not None and thought.end == "none"
        left = sampling.max_tokens - len(said.ids)
        more = _before_it_is_known(reader.decode(said.ids), thinks, budget)
        known = more == 0 or more + len(ending) >= left
        if known and thinks:
            put_in = Completion(ending, [0.0] * len(ending), [-1] * len(ending), "length")
            said = _joined(said, put_in, sampling.stop, reader)
            if said.finish == "stop":
                break
            left -= len(ending)
        rest = replace(
            whole,
            max_tokens=left if known else more,
            # Calls, which have seeds of their own, are numbered from 0.
            seed=None if sampling.seed is None else derive(sampling.seed, -part),
            experts_from=sampling.experts_from + (0 if said.experts is None else len(said.experts)),
        )
        later = await engine.generate([*ids, *said.ids], rest, images=images)
        said = _joined(said, later, sampling.stop, reader)
        if known:
            break
    return said


def _before_it_is_known(text: str, thinks: bool, budget: int) -> int:
    """Return how many tokens more it takes to know whether a response thinks; 0: it is known.

    A thought that is about to end is let end, token by token: behind what ends it instead, the rest of its
    mark would be words. One that has not begun has its budget before it.
    """
    if thinks:
        return int(may_end_thought(text))
    return budget if may_begin_thought(text) else 0


def was_cut(completion: Completion) -> bool:
    """Whether the thought of a response was ended because its budget was used up."""
    return -1 in completion.versions


def _joined(said: Completion, later: Completion, stop: tuple[str, ...], reader: _Reader) -> Completion:
    """Return a response and its next part, up to where a stop string ends that the engine does not see.

    The engine takes what is there for prompt: it sees none that begins in it, and none in what is put in.
    What follows a stop string was not to be sampled.
    """
    put_in = -1 in later.versions
    end = _stop_end(said.ids, later.ids, stop, reader, put_in)
    experts = [part.experts for part in (said, later) if part.experts is not None]
    return Completion(
        [*said.ids, *later.ids[:end]],
        [*said.logprobs, *later.logprobs[:end]],
        [*said.versions, *later.versions[:end]],
        later.finish if end is None else "stop",
        np.concatenate(experts) if experts else None,
    )


def _stop_end(
    known: list[int], later: list[int], stop: tuple[str, ...], reader: _Reader, within: bool
) -> int | None:
    """Return with how many of the later tokens a stop string ends; None: none does.

    Args:
        within: whether it may begin in the later tokens, too.
    """
    if not stop:
        return None
    longest = max(map(len, stop))
    known = known[-4 * longest :]  # a character has at most 4 bytes, and a token at least one
    begun = len(reader.decode(known))
    for n in range(1, len(later) + 1):
        text = reader.decode([*known, *later[:n]])
        last = len(text) if within else begun
        if any(-1 < text.find(end, max(0, begun - len(end) + 1)) < last for end in stop):
            return n
        if not within and len(text) >= begun + longest:
            break
    return None
