"""The experts that a mixture in vLLM sent each token of a request to."""

from __future__ import annotations

from typing import Any

import numpy as np

from areal.errors import UserError


def experts_of(output: Any) -> np.ndarray:
    """Return those of all tokens, the prompt's first, but for the last, which was sent to none.

    Raises:
        UserError: vLLM has not recorded them.
    """
    count = len(output.prompt_token_ids) + len(output.outputs[0].token_ids) - 1
    whole = getattr(output.outputs[0], "routed_experts", None)
    prompt = getattr(output, "prompt_routed_experts", None)  # some releases have those of a prompt apart
    parts = [part for part in (prompt, whole) if part is not None]
    if (found := sum(map(len, parts))) < count:
        raise RuntimeError(f"vLLM returned the experts of {found} tokens, not of {count}")
    experts = np.concatenate(parts)[:count]
    # Some kernels choose by themselves, of which a release may not know: it says that all chose expert 0.
    if experts.shape[2] > 1 and not (np.diff(np.sort(experts[-1]), axis=-1) > 0).all(-1).any():
        raise UserError(
            "vLLM does not say which experts it chooses for this model here: set learner.router_replay=false"
        )
    return experts
