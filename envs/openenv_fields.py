"""The fields of an OpenEnv server's actions and observations, from its JSON schemas."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from areal.errors import UserError
from areal.rewards.answers import boxed_answer

_OF_ALL = {"action": {"metadata"}, "observation": {"done", "reward", "metadata"}}
"""Fields of every action and every observation, in any environment."""
_KINDS: dict[str, Callable[[str], Any]] = {"string": str, "integer": int, "number": float, "boolean": bool}
_YES_OR_NO = {"true": True, "yes": True, "false": False, "no": False}


@dataclass(frozen=True, slots=True)
class Field:
    """A field.

    Attributes:
        kind: its JSON type; ``value`` if it has several types or none.
        choices: its possible values; empty: any value of its type.
        required: whether it has no default.
        path: the path of the value in the field, if the field is an object.
    """

    name: str
    kind: str
    choices: tuple[Any, ...] = ()
    required: bool = False
    path: tuple[str, ...] = ()

    @property
    def asked(self) -> str:
        """The instruction for the model; empty if any text is valid."""
        if self.choices:
            return f"Put one of these in \\boxed{{}}: {', '.join(map(str, self.choices))}."
        kinds = {"integer": "a whole number", "number": "a number", "boolean": "yes or no"}
        return f"Put {kinds[self.kind]} in \\boxed{{}}." if self.kind in kinds else ""

    def read(self, response: str) -> Any:
        """Return a response as a value of this field; raises ValueError if it is not one."""
        if self.kind == "string" and not self.choices:
            return response.encode(errors="replace").decode()  # JSON does not allow lone surrogates
        boxed = boxed_answer(response)
        answer = (response if boxed is None else boxed).strip().lower()
        known = {str(choice).lower(): choice for choice in self.choices} or (
            _YES_OR_NO if self.kind == "boolean" else None
        )
        if known is None:
            number = _KINDS[self.kind](answer)
            if not math.isfinite(number):
                raise ValueError(f"{answer!r} is not a finite number")
            return number
        if answer not in known:
            raise ValueError(f"{answer!r} is not one of the choices")
        return known[answer]

    def filled(self, rest: Mapping[str, Any], value: Any) -> dict[str, Any]:
        """Return an action with the value in this field, and with the rest in the others."""
        return _filled(rest, (self.name, *self.path), value)

    def __str__(self) -> str:
        of = "one of " + "|".join(map(str, self.choices)) if self.choices else self.kind
        return f"{'.'.join((self.name, *self.path))} ({of})"


def said_field(schema: Mapping[str, Any], says: str | None, rest: Mapping[str, Any]) -> Field:
    """Return the field of an action that receives the model's response.

    Args:
        schema: the schema of actions.
        says: name of the field, or ``field.name`` for text in an object; None: the only suitable field, among
            those without a default if there are any, or the only one that accepts any text.
        rest: values of the other fields.

    Raises:
        UserError: there is no such field, or there are several; or another field needs a value, too. The
            message lists the fields.
    """
    known = _fields(schema, "action")
    for name in rest:
        if name not in known:
            raise _wrong("action", f"action={{{name}: …}} is not one of", known)
    fixed = fixed_values(schema).keys() | rest.keys()
    said = _named(known, says) if says is not None else _only(known, fixed)
    missing = [f for f in known.values() if f.required and f.name not in {said.name, *fixed}]
    if missing:
        given = ", ".join(f"{field.name}: VALUE" for field in missing)
        raise _wrong(
            "action", f"'{said.name}' is not enough; also set env_options.action={{{given}}}; fields:", known
        )
    return said


def _named(known: Mapping[str, Field], says: str) -> Field:
    name, *path = says.split(".")
    if name not in known:
        raise _wrong("action", f"says={says} is not one of", known)
    if path and known[name].kind == "object":
        return replace(known[name], kind="string", choices=(), path=tuple(path))
    if path or known[name].kind not in _KINDS:
        raise _wrong("action", f"says={says} is neither text nor a number; choose one of", known)
    return known[name]


def _only(known: Mapping[str, Field], fixed: Collection[str]) -> Field:
    if {"tool_name", "arguments"} <= known.keys():
        call = "env_options.says=arguments.NAME 'env_options.action={tool_name: TOOL}'"
        raise _wrong(
            "action",
            f"the server has tools; choose one, and the argument for the response, with {call}; fields:",
            known,
        )
    able = [field for field in known.values() if field.kind in _KINDS and field.name not in fixed]
    able = [field for field in able if field.required] or able
    if len(able) > 1:
        able = [field for field in able if field.kind == "string" and not field.choices] or able
    if len(able) != 1:
        which = "choose the field for the response with env_options.says=FIELD, from"
        raise _wrong(
            "action", which if able else "the action has no field for text or a number; fields:", known
        )
    return able[0]


def fixed_values(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of an action that have only one possible value and no default."""
    known = _fields(schema, "action").values()
    return {field.name: field.choices[0] for field in known if field.required and len(field.choices) == 1}


def shown_fields(schema: Mapping[str, Any], given: str | Sequence[str] | None) -> tuple[str, ...]:
    """Return the fields of an observation to show.

    Args:
        schema: the schema of observations.
        given: their names, or ``field.name`` for a value in an object; None: the only field, or the only text
            field.

    Raises:
        UserError: there is no such field, or there are several; the message lists the fields.
    """
    known = _fields(schema, "observation")
    if given is not None:
        names = (given,) if isinstance(given, str) else tuple(given)
        for name in names:
            if name.partition(".")[0] not in known:
                raise _wrong("observation", f"field={name} is not one of", known)
        if not names:
            raise _wrong("observation", "field=[] shows none of", known)
        return names
    found = list(known.values())
    if len(found) > 1:
        found = [field for field in found if field.kind == "string"]
    if len(found) != 1:
        raise _wrong(
            "observation",
            "choose the fields to show with env_options.field=FIELD, or =[ONE, OTHER], from",
            known,
        )
    return (found[0].name,)


def shown(observation: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return fields of an observation as text; several fields have names, and empty ones are omitted."""
    values = {name: _at(observation, name) for name in names}
    texts = {
        name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for name, value in values.items()
        if value is not None
    }
    if len(names) == 1:
        return "".join(texts.values())
    return "\n".join(f"{name}: {text}" for name, text in texts.items())


def _at(observation: Mapping[str, Any], name: str) -> Any:
    """Return the value of a field, or of a name in an object; None if there is none."""
    found: Any = observation
    for part in name.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def _filled(rest: Mapping[str, Any], path: Sequence[str], value: Any) -> dict[str, Any]:
    name, *further = path
    inner = rest.get(name)
    return {
        **rest,
        name: _filled(inner if isinstance(inner, Mapping) else {}, further, value) if further else value,
    }


def _wrong(what: str, why: str, known: Mapping[str, Field]) -> UserError:
    return UserError(
        f"openenv-v1: the server's {what}: {why} {', '.join(map(str, known.values())) or 'none'}"
    )


def _fields(schema: Mapping[str, Any], what: str) -> dict[str, Field]:
    """Return the fields that are specific to the environment."""
    required = schema.get("required") or ()
    return {
        name: _field(name, part, schema, name in required)
        for name, part in (schema.get("properties") or {}).items()
        if name not in _OF_ALL[what]
    }


def _field(name: str, part: Mapping[str, Any], schema: Mapping[str, Any], required: bool) -> Field:
    """Return a field whose schema may be a reference, or one alternative beside null."""
    some = [each for each in part.get("anyOf") or () if each.get("type") != "null"]
    if len(some) == 1:
        part = some[0]
    if "$ref" in part:
        part = (schema.get("$defs") or {}).get(str(part["$ref"]).rpartition("/")[2], {})
    choices = tuple(part.get("enum") or ([part["const"]] if "const" in part else ()))
    kind = part.get("type")
    return Field(name, kind if isinstance(kind, str) else "value", choices, required)
