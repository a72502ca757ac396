"""Describes settings in words, from their types: for the terminal and for the reference on the site."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import annotated_types
from pydantic import BaseModel, BeforeValidator
from pydantic.fields import FieldInfo
from typing_extensions import is_typeddict

from areal.config.objective import CHOICES
from areal.config.settings import Config, LearnerConfig

_WORDS = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`", Path: "path"}
_BOUNDS = {
    annotated_types.Ge: ("at least", "ge"),
    annotated_types.Gt: ("above", "gt"),
    annotated_types.Le: ("at most", "le"),
    annotated_types.Lt: ("below", "lt"),
}


@dataclass(frozen=True, slots=True)
class Described:
    """A setting in words."""

    key: str
    value: str
    default: str
    help: str


def groups(model: type[BaseModel] = Config) -> dict[str, type[BaseModel]]:
    """Return the groups of settings by name; "" is the group of the settings outside of groups."""
    found = {name: field.annotation for name, field in model.model_fields.items()}
    return {"": model} | {n: k for n, k in found.items() if isinstance(k, type) and issubclass(k, BaseModel)}


def describe_group(name: str, model: type[BaseModel] = Config) -> Iterator[Described]:
    """Describe the settings of a group; raises ValueError if one has no description."""
    inside = groups(model)
    for key, field in inside[name].model_fields.items():
        if name or key not in inside:
            whole = f"{name}.{key}" if name else key
            default = "the preset's" if inside[name] is LearnerConfig and key in CHOICES else _default(field)
            yield Described(whole, _kind(field), default, described(whole, field.description))


def described(name: str, text: str | None) -> str:
    """Return a description as one line; raises ValueError if it is missing."""
    if not text or not text.strip():
        raise ValueError(f"{name} has no description: write one where it is defined")
    return " ".join(text.replace("``", "`").split())


def _kind(field: FieldInfo) -> str:
    bounds = [
        f"{words} {getattr(bound, name):.10g}"
        for bound in field.metadata
        for kind, (words, name) in _BOUNDS.items()
        if isinstance(bound, kind)
    ]
    return ", ".join([_type(field.annotation, field.metadata), *bounds])


def _type(kind: Any, metadata: list[Any]) -> str:
    """Describe a type in words; ``metadata`` is that of an Annotated around it, which pydantic removes."""
    if any(isinstance(item, BeforeValidator) for item in metadata):  # Staleness, Bound
        return "number or `inf`"
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return _type(arguments[0], list(arguments[1:]))
    if origin in (Union, types.UnionType):
        return _any_of(["`null`" if a is type(None) else _type(a, []) for a in arguments])
    if origin is Literal:
        return _any_of([f"`{a}`" for a in arguments])
    if origin is dict or is_typeddict(kind):
        return "mapping"
    if origin is tuple and arguments[1:] == (...,):
        of = _type(arguments[0], [])
        return f"list of {of if ' or ' in of else f'{of}s'}"
    if origin is tuple:
        return f"list ({', '.join(_type(a, []) for a in arguments)})"
    return _WORDS[kind]


def _any_of(words: list[str]) -> str:
    each = ", ".join(words).replace(" or ", ", ").split(", ")  # of all nested alternatives
    return " or ".join(filter(None, (", ".join(each[:-1]), each[-1])))


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "`null`"
    if isinstance(value, bool):
        return f"`{value}`".lower()
    if isinstance(value, tuple):
        return f"`{list(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"
