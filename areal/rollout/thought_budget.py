"""A budget for thoughts: a thought that exhausts it is ended, and the same response continues.

A response is first sampled up to the budget. If it is still thinking then, the tokens of a fixed text that
ends thoughts are inserted, and the rest is sampled after them. If it is not, the rest is sampled directly. If
that is not yet known, a further part is sampled first. The inserted tokens are context, like those of a
prompt, because they are not sampled. Each sampled token has its log-probability given all tokens before it,
as the learner computes it.
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
    """The parts of :class:`areal.rollout.rendering.Renderer` that are used here."""

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

    White space before the thought does not count, nor do the tokens that complete its end mark. A stop string
    in the inserted text also ends the response, as with vLLM's own budgets. If ``sampling.max_tokens`` leaves
    no room for text after an ended thought, it is the only limit. Text that conforms to a schema is not a
    thought.

    Args:
        ids: the tokens of the prompt.
        prompt: its text.
        images: the images in it.

    Raises:
        BadRequest: thoughts cannot be recognized, or the sampling has penalties that distinguish the response
            from the prompt.
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
            # Calls are numbered from 0, and have their own seeds.
            seed=None if sampling.seed is None else derive(sampling.seed, -part),
            experts_from=sampling.experts_from + (0 if said.experts is None else len(said.experts)),
        )
        later = await engine.generate([*ids, *said.ids], rest, images=images)
        said = _joined(said, later, sampling.stop, reader)
        if known:
            break
    return said


def _before_it_is_known(text: str, thinks: bool, budget: int) -> int:
    """Return how many more tokens are needed to know whether a response thinks; 0: it is known.

    A thought whose end mark has begun may complete it, token by token; otherwise the rest of the mark would
    become text after the inserted end. A thought that has not begun has its full budget.
    """
    if thinks:
        return int(may_end_thought(text))
    return budget if may_begin_thought(text) else 0


def was_cut(completion: Completion) -> bool:
    """Return whether the thought of a response was ended because it exhausted its budget."""
    return -1 in completion.versions


def _joined(said: Completion, later: Completion, stop: tuple[str, ...], reader: _Reader) -> Completion:
    """Join a response and its next part, up to the end of a stop string that the engine does not see.

    The engine treats the first part as prompt, so it does not see a stop string that begins in it or in
    inserted text. Tokens after a stop string are dropped.
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
    """Return the number of later tokens up to the end of a stop string; None: there is none.

    Args:
        within: whether it may also begin in the later tokens.
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
