"""The settings that make up an objective, and the presets named after papers.

docs/objectives.md has the formulas.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from areal.config.fields import Bound, Settings
from areal.errors import nearest

Advantage = Literal["group-normalised", "group-centred", "leave-one-out", "global-normalised", "gae"]
Ratio = Literal["token", "sequence"]
Surrogate = Literal["ppo", "cispo"]
BehavMode = Literal["mask", "truncate"]
Aggregation = Literal["token-mean", "sequence-mean", "fixed-length"]

PRESETS: dict[str, dict[str, Any]] = {
    "decoupled-ppo": {},
    "ppo": {"advantage": "gae", "decoupled": False, "gae_lambda": 0.95},
    "grpo": {"aggregation": "sequence-mean", "kl": 0.04},
    "dr-grpo": {"advantage": "group-centred", "aggregation": "fixed-length"},
    "dapo": {"clip_high": 0.28, "dynamic_sampling": True, "overlong": 0.2},
    "rloo": {"advantage": "leave-one-out", "clip": math.inf, "aggregation": "fixed-length"},
    "reinforce++": {"advantage": "global-normalised"},
    "gspo": {"ratio": "sequence", "clip": 3e-4, "clip_high": 4e-4, "aggregation": "sequence-mean"},
    "cispo": {
        "decoupled": False,
        "surrogate": "cispo",
        "clip": math.inf,
        "clip_high": 4.0,
        "dynamic_sampling": True,
        "overlong": 0.2,
    },
}
"""Each differs from the first only in what its paper says; docs/objectives.md explains them."""


class Objective(Settings):
    """A preset, and what is set on top of it. The defaults are decoupled PPO (arXiv 2505.24298).

    What is not given, or null, is as the preset has it; written out, it is null again.
    """

    objective: str = "decoupled-ppo"
    """The preset: decoupled-ppo, ppo, grpo, dr-grpo, dapo, rloo, reinforce++, gspo or cispo."""
    advantage: Advantage = "group-normalised"
    """What a reward is compared with."""
    ratio: Ratio = "token"
    """Importance ratio of each token, or one for a whole sequence."""
    decoupled: bool = True
    """Trust region around the policy at the start of the step, weighted to who sampled; false: naive."""
    surrogate: Surrogate = "ppo"
    """ppo: clipped ratios lose their gradient; cispo: the clipped ratio is a constant weight."""
    clip: Bound = Field(0.2, gt=0)
    """ε of the clipping below 1, and above it too where neither clip_high nor the preset says otherwise."""
    clip_high: Bound | None = Field(None, gt=0)
    """ε of the clipping above 1."""
    dual_clip: Bound = Field(math.inf, gt=1)
    """Largest ratio that counts where the advantage is negative."""
    behav_clip: Bound = Field(5.0, gt=1)
    """Cap of the weight π_prox/π_behav of a decoupled objective."""
    behav_mode: BehavMode = "mask"
    """mask: tokens above behav_clip are left out of the loss; truncate: they count with the cap."""
    aggregation: Aggregation = "token-mean"
    """How the losses of tokens make up the loss of a minibatch."""
    kl: float = Field(0.0, ge=0)
    """Coefficient of the KL divergence from the model that the run began with."""
    entropy: float = Field(0.0, ge=0)
    """Coefficient of the entropy bonus."""
    dynamic_sampling: bool = False
    """Sample another group in place of one whose rewards are all equal."""
    overlong: float = Field(0.0, ge=0, le=1)
    """Last share of max_new_tokens over which a penalty grows from 0 to 1."""
    turn_discount: float | None = Field(None, ge=0, le=1)
    """A turn answers for what the episode earns from it on, discounted by this from turn to turn; null: every
    turn answers for the whole episode's reward."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount of advantage=gae, per token."""
    gae_lambda: float = Field(1.0, ge=0, le=1)
    """λ of advantage=gae: 1 trusts returns only, 0 the critic only."""

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

    @field_validator("objective")
    @classmethod
    def _is_a_preset(cls, name: str) -> str:
        if name not in PRESETS:
            raise ValueError(f"no such objective{nearest(name, PRESETS)} (known: {', '.join(PRESETS)})")
        return name

    def choices(self) -> dict[str, Any]:
        """Return what the preset decides, and what was given on top of it, as plain data."""
        found = {name: getattr(self, name) for name in CHOICES}
        if self.clip_high is None:
            found["clip_high"] = self.clip
        return {name: "inf" if value == math.inf else value for name, value in found.items()}

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_given(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: value for name, value in data.items() if value is not None or name not in CHOICES}

    @model_validator(mode="after")
    def _rest_is_the_presets(self) -> Objective:
        preset = PRESETS[self.objective].items()
        self.__dict__.update({name: value for name, value in preset if name not in self.model_fields_set})
        return self

    @model_serializer(mode="wrap")
    def _as_given(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return write(self) | {name: None for name in CHOICES if name not in self.model_fields_set}


CHOICES = tuple(name for name in Objective.model_fields if name != "objective")
"""The settings that a preset decides."""
