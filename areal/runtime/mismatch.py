"""Checks that the engine samples from the policy that the learner trains.

With the same weights, the log-probabilities of both for a token only differ by rounding. A larger difference
indicates an error that no other number shows: weights that did not arrive, or a model that engine and learner
compute differently.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from areal.config import Config
from areal.errors import UserError

if TYPE_CHECKING:
    import torch

_ENOUGH = 100
"""Number of tokens whose mean is meaningful; in 16 bits, single tokens differ much."""


class MismatchWatch:
    """Reports once an unusually large mismatch, and ends the run above its limit.

    With ``rollout.interruption=keep``, the KV cache is from older weights, so tokens differ by more than
    rounding. With this setting and stale rollouts, nothing is checked unless ``learner.max_mismatch`` is set.

    Args:
        dtypes: compute types of engine and learner.
    """

    def __init__(self, config: Config, dtypes: set[torch.dtype], device: str) -> None:
        import torch

        wanted, rollout = config.learner.max_mismatch, config.rollout
        if dtypes != {torch.float32}:
            self.precision, self.usual, self.limit = "16 bits", 0.1, 0.5
            if config.engine.quantization is not None:
                self.precision = f"{config.engine.quantization} and 16 bits"
        elif device == "cuda":  # attention then multiplies in tf32
            self.precision, self.usual, self.limit = "float32 on a GPU", 0.02, 0.2
        else:
            self.precision, self.usual, self.limit = "float32", 1e-4, 1e-2
        if wanted is not None:
            self.limit, self.usual = wanted, min(self.usual, wanted)
        self._looks = wanted is not None or rollout.interruption != "keep" or rollout.max_staleness == 0
        self._warned = False

    def look(self, metrics: dict[str, float], tokens: int) -> str | None:
        """Check the metrics of an update on this number of sampled tokens.

        Returns:
            A one-line warning for the user, if there is a new one.

        Raises:
            UserError: the mismatch is above its limit.
        """
        found = metrics.get("mismatch/logprob")
        if not self._looks or found is None or metrics["mismatch/tokens"] * tokens < _ENOUGH:
            return None
        what = (
            f"the log-probabilities of the engine and the learner differ by {found:.2g} on average "
            "(mismatch/logprob)"
        )
        if not found <= self.limit:  # also false for NaN
            raise UserError(
                f"{what}, which exceeds the limit of {self.limit:g}: the engine does not sample from the "
                "policy that is trained; please report this with the model's name, or set "
                "learner.max_mismatch=inf to train anyway"
            )
        if found <= self.usual or self._warned:
            return None
        self._warned = True
        return (
            f"warning: {what}; in {self.precision}, the usual difference is at most {self.usual:g}, and the "
            f"run ends above {self.limit:g} (learner.max_mismatch)"
        )
