"""The experts that a mixture in vLLM chose for each token of a request."""

from __future__ import annotations

from typing import Any

import numpy as np

from areal.errors import UserError


def experts_of(output: Any, start: int) -> np.ndarray:
    """Return the experts of all tokens from ``start``, prompt first, except the last, which has none.

    Raises:
        UserError: vLLM has not recorded them.
    """
    count = len(output.prompt_token_ids) + len(output.outputs[0].token_ids) - 1 - start
    recorded: np.ndarray = output.outputs[0].routed_experts
    if len(recorded) < count:
        raise RuntimeError(f"vLLM returned the experts of {len(recorded)} tokens instead of {count}")
    experts = recorded[:count]
    # Some kernels choose by themselves, and a release may not know it; it then reports expert 0 for all.
    if experts.shape[2] > 1 and not (np.diff(np.sort(experts[-1]), axis=-1) > 0).all(-1).any():
        raise UserError("vLLM does not report the experts of this model; set learner.router_replay=false")
    return experts
