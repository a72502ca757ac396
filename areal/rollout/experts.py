"""The experts that a mixture in vLLM sent each token of a request to."""

from __future__ import annotations

from typing import Any

import numpy as np

from areal.errors import UserError


def experts_of(output: Any, start: int) -> np.ndarray:
    """Return those of all tokens from ``start`` on, the prompt's first, but for the last, sent to none.

    Raises:
        UserError: vLLM has not recorded them.
    """
    count = len(output.prompt_token_ids) + len(output.outputs[0].token_ids) - 1 - start
    recorded: np.ndarray = output.outputs[0].routed_experts
    if len(recorded) < count:
        raise RuntimeError(f"vLLM returned the experts of {len(recorded)} tokens instead of {count}")
    experts = recorded[:count]
    # Some kernels choose by themselves, of which a release may not know: it says that all chose expert 0.
    if experts.shape[2] > 1 and not (np.diff(np.sort(experts[-1]), axis=-1) > 0).all(-1).any():
        raise UserError("vLLM does not report the experts of this model; set learner.router_replay=false")
    return experts
