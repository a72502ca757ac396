"""The base class of settings, and numbers that may be infinite."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer


def _infinite(value: object) -> object:
    return math.inf if isinstance(value, str) and value.lower() in ("inf", "infinity", "∞") else value


def _a_number(value: float) -> float:
    if math.isnan(value):
        raise ValueError("the value is not a number; give a number, or inf")
    return value


_Read = Annotated[float, Field(allow_inf_nan=True), BeforeValidator(_infinite), AfterValidator(_a_number)]
Staleness = Annotated[
    _Read, PlainSerializer(lambda v: "inf" if math.isinf(v) else int(v), return_type=int | str)
]
Bound = Annotated[_Read, PlainSerializer(lambda v: "inf" if math.isinf(v) else v, return_type=float | str)]
"""A number, or inf for no bound."""
Moment = Annotated[float, Field(ge=0, lt=1)]


class Settings(BaseModel):
    """Base class of typed settings. It refuses unknown names; the docstring below a field documents it."""

    model_config = ConfigDict(
        extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )
