"""A batch that nobody sampled, on which the learner warms up: everything is compiled before a real one comes.

Compiling takes a learner up to a minute, during which the engine starts anyway.
"""

from __future__ import annotations

import numpy as np

from areal.trajectory import Batch, Episode, Group, Trajectory

_PROMPT, _RESPONSE = 8, 256
"""Tokens of the prompt of a pair, and of the longest response."""


def dummy_batch(minibatches: int, tokens: int, max_new_tokens: int) -> Batch:
    """Return a batch of pairs of responses to one prompt, of which one is right.

    Args:
        minibatches: how many minibatches the batch is split into; each gets as many pairs as the others.
        tokens: the largest number of tokens of a minibatch; a minibatch has at least one pair.
        max_new_tokens: tokens of the longest response allowed; 0: no limit.
    """
    response = min(_RESPONSE, max_new_tokens or _RESPONSE, max(1, tokens // 2 - _PROMPT))
    pairs = max(1, tokens // (2 * (_PROMPT + response)))
    return Batch(0, [_pair(number, response) for number in range(minibatches * pairs)])


def _pair(number: int, response: int) -> Group:
    wrong, right = _trajectory(number, response), _trajectory(number, -(-response // 2))
    return Group(number, 0, [Episode([wrong], 0.0), Episode([right], 1.0)])


def _trajectory(prompt: int, response: int) -> Trajectory:
    sampled = np.arange(_PROMPT + response) >= _PROMPT
    return Trajectory(
        tokens=np.where(sampled, 0, prompt % 8).astype(np.int32),
        loss_mask=sampled,
        logprobs=np.where(sampled, -1.0, 0.0).astype(np.float32),
        versions=np.where(sampled, 0, -1).astype(np.int32),
    )
