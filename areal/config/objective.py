"""The settings that make up an objective, and the presets named after papers.

docs/objectives.md has the formulas.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from areal.config.fields import Bound, Settings
from areal.errors import nearest

Advantage = Literal["group-normalized", "group-centered", "leave-one-out", "global-normalized", "gae"]
Ratio = Literal["token", "sequence"]
Surrogate = Literal["ppo", "cispo"]
BehavMode = Literal["mask", "truncate"]
Aggregation = Literal["token-mean", "sequence-mean", "fixed-length"]

PRESETS: dict[str, dict[str, Any]] = {
    "decoupled-ppo": {},
    "ppo": {"advantage": "gae", "decoupled": False, "gae_lambda": 0.95},
    "grpo": {"aggregation": "sequence-mean", "kl": 0.04},
    "dr-grpo": {"advantage": "group-centered", "aggregation": "fixed-length"},
    "dapo": {"clip_high": 0.28, "dynamic_sampling": True, "overlong": 0.2},
    "rloo": {"advantage": "leave-one-out", "clip": math.inf, "aggregation": "fixed-length"},
    "reinforce++": {"advantage": "global-normalized"},
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
"""Each preset differs from the first only as its paper states; docs/objectives.md explains them."""


class Objective(Settings):
    """A preset, and the settings that override it. The default is decoupled PPO (arXiv 2505.24298).

    The preset determines each setting that is absent or null. Such a setting is serialized as null again.
    """

    objective: str = "decoupled-ppo"
    """The preset: decoupled-ppo, ppo, grpo, dr-grpo, dapo, rloo, reinforce++, gspo or cispo."""
    advantage: Advantage = "group-normalized"
    """How rewards become advantages: the baseline and the normalization."""
    ratio: Ratio = "token"
    """Whether the importance ratio is per token or per sequence."""
    decoupled: bool = True
    """The center of the trust region. true: the policy at the start of the step, π_prox; tokens have the
    weight π_prox/π_behav. false: the policy that sampled the token, π_behav."""
    surrogate: Surrogate = "ppo"
    """ppo: clipped ratios have no gradient. cispo: the clipped ratio is a constant weight."""
    clip: Bound = Field(0.2, gt=0)
    """Lower clipping range ε. It is also the upper range if neither clip_high nor the preset sets one."""
    clip_high: Bound | None = Field(None, gt=0)
    """Upper clipping range ε."""
    dual_clip: Bound = Field(math.inf, gt=1)
    """Upper bound of the ratio if the advantage is negative."""
    behav_clip: Bound = Field(5.0, gt=1)
    """Cap of the weight π_prox/π_behav of a decoupled objective, which corrects for stale rollouts and for an
    engine that rounds more than the learner (engine.quantization)."""
    behav_mode: BehavMode = "mask"
    """What happens to a token whose weight exceeds behav_clip. mask: it does not contribute to the loss.
    truncate: its weight is the cap."""
    aggregation: Aggregation = "token-mean"
    """How the losses of tokens become the loss of a minibatch."""
    kl: float = Field(0.0, ge=0)
    """Coefficient of the KL divergence from the initial model of the run."""
    entropy: float = Field(0.0, ge=0)
    """Coefficient of the entropy bonus."""
    dynamic_sampling: bool = False
    """Replace a group whose rewards are all equal with another group."""
    overlong: float = Field(0.0, ge=0, le=1)
    """The last share of rollout.max_new_tokens, over which a length penalty grows from 0 to 1."""
    turn_discount: float | None = Field(None, ge=0, le=1)
    """Credit each turn with the rewards of the episode from that turn on, discounted by this factor per turn;
    null: credit each turn with the reward of the whole episode."""
    gamma: float = Field(1.0, gt=0, le=1)
    """Discount factor γ per token, for advantage=gae."""
    gae_lambda: float = Field(1.0, ge=0, le=1)
    """λ for advantage=gae. 1: use only returns. 0: rely on the critic."""

    @property
    def bounds(self) -> tuple[float, float]:
        """The interval that ratios are clipped to."""
        return 1 - self.clip, 1 + (self.clip if self.clip_high is None else self.clip_high)

    @property
    def compares_groups(self) -> bool:
        """Whether the advantage compares a reward with the others of its group."""
        return self.advantage in ("group-normalized", "group-centered", "leave-one-out")

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
        """Return the settings that a preset determines, with their values, as plain data."""
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
"""The settings that a preset determines."""
