"""Options of adapters other than their rank, named as in peft's ``adapter_config.json``."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict  # pydantic accepts the one in typing only from Python 3.12 on


class LoraOptions(TypedDict, total=False):
    """Missing options have peft's defaults, except ``lora_alpha`` (areal.learner.lora)."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    lora_alpha: Annotated[float, Field(gt=0)]
    use_rslora: bool
    target_modules: Annotated[list[str], Field(min_length=1)] | str
    rank_pattern: dict[str, Annotated[int, Field(ge=1)]]
    alpha_pattern: dict[str, Annotated[float, Field(gt=0)]]
