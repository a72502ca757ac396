"""An artificial batch that warms up the learner: everything is compiled before a real batch arrives.

Compilation takes up to a minute, and the engine starts during this time.
"""

from __future__ import annotations

import numpy as np

from areal.trajectory import Batch, Episode, Group, Trajectory

_PROMPT, _RESPONSE = 8, 256
"""Number of tokens of a pair's prompt, and of the longest response."""


def dummy_batch(minibatches: int, tokens: int, max_new_tokens: int) -> Batch:
    """Return a batch of pairs of responses to one prompt, one of which is correct.

    Args:
        minibatches: number of minibatches of the batch; each has the same number of pairs.
        tokens: maximum number of tokens of a minibatch; a minibatch has at least one pair.
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
