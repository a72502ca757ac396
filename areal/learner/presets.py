"""The choices that make up an objective, and the table of presets named after papers.

Plain values, without torch: the configuration knows them too. docs/objectives.md has the formulas.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Advantage = Literal["group-normalised", "group-centred", "leave-one-out", "global-normalised", "gae"]
Ratio = Literal["token", "sequence"]
Surrogate = Literal["ppo", "cispo"]
BehavMode = Literal["mask", "truncate"]
Aggregation = Literal["token-mean", "sequence-mean", "fixed-length"]


@dataclass(frozen=True, slots=True)
class Objective:
    """An objective as a table of values. The defaults are decoupled PPO (arXiv 2505.24298).

    Attributes:
        advantage: what a reward is compared with: the others of its group (three ways), the whole batch, or
            a critic's values.
        ratio: of each token, or one for a sequence: the geometric mean of its tokens' (GSPO).
        decoupled: the trust region is around π_prox and a weight π_prox/π_behav corrects for who sampled;
            or naive: it is around π_behav.
        surrogate: ppo: the smaller of the plain and the clipped ratio times Â; cispo: the clipped ratio is a
            constant weight of Â·log π_θ, so that no token loses its gradient.
        clip: ε below: ratios under 1−ε are clipped; inf: none are.
        clip_high: ε above; None: as below; inf: none are clipped.
        dual_clip: c: where Â < 0 a ratio counts for at most c; inf: no such bound.
        behav_clip: the cap of the weight π_prox/π_behav of a decoupled objective; inf: none.
        behav_mode: mask: what is above the cap is left out of the loss; truncate: it counts with the cap.
        aggregation: mean over tokens, mean over sequences of each one's mean, or the sum over tokens divided
            by the number of sequences times the longest response allowed.
        kl: coefficient of KL(π_θ ‖ π_ref) in the loss; π_ref is the model that the run began with.
        entropy: coefficient of the entropy bonus.
        dynamic_sampling: a group whose rewards are all equal is rejected and another one sampled.
        overlong: share of the longest response allowed over which a penalty grows from 0 to 1; 0: none.
        turn_discount: γ between turns: a turn answers for what the episode earns from it on, discounted;
            None: every turn answers for the whole episode's reward.
        gamma: γ of GAE, per token.
        gae_lambda: λ of GAE.
    """

    advantage: Advantage = "group-normalised"
    ratio: Ratio = "token"
    decoupled: bool = True
    surrogate: Surrogate = "ppo"
    clip: float = 0.2
    clip_high: float | None = None
    dual_clip: float = math.inf
    behav_clip: float = 5.0
    behav_mode: BehavMode = "mask"
    aggregation: Aggregation = "token-mean"
    kl: float = 0.0
    entropy: float = 0.0
    dynamic_sampling: bool = False
    overlong: float = 0.0
    turn_discount: float | None = None
    gamma: float = 1.0
    gae_lambda: float = 1.0

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval that ratios are clipped to."""
        return 1 - self.clip, 1 + (self.clip if self.clip_high is None else self.clip_high)

    @property
    def compares_groups(self) -> bool:
        """Whether a reward says something only beside others of its group."""
        return self.advantage in ("group-normalised", "group-centred", "leave-one-out")

    @property
    def uses_every_token(self) -> bool:
        """Whether a trajectory can move the policy although the advantage of its reward is exactly 0."""
        return self.advantage == "gae" or self.kl > 0 or self.entropy > 0


PRESETS: dict[str, Objective] = {
    "decoupled-ppo": Objective(),
    "ppo": Objective(advantage="gae", decoupled=False, gae_lambda=0.95),
    "grpo": Objective(aggregation="sequence-mean", kl=0.04),
    "dr-grpo": Objective(advantage="group-centred", aggregation="fixed-length"),
    "dapo": Objective(clip_high=0.28, dynamic_sampling=True, overlong=0.2),
    "rloo": Objective(advantage="leave-one-out", clip=math.inf, aggregation="fixed-length"),
    "reinforce++": Objective(advantage="global-normalised"),
    "gspo": Objective(ratio="sequence", clip=3e-4, clip_high=4e-4, aggregation="sequence-mean"),
    "cispo": Objective(
        decoupled=False, surrogate="cispo", clip=math.inf, clip_high=4.0, dynamic_sampling=True, overlong=0.2
    ),
}
"""Each differs from the first only in what its paper says; docs/objectives.md explains them."""
