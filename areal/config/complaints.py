"""The message about an invalid setting, with the name that was probably meant."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any

from areal.config.settings import Config
from areal.config.synonyms import OTHERWISE, RENAMED, SYNONYMS
from areal.errors import nearest


def complaint(error: Any) -> str:
    """Return what is wrong with one setting according to pydantic, or which setting an unknown name means."""
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if key in RENAMED:
        return f"'{key}' was renamed; use '{RENAMED[key]}' instead"
    if error["type"] == "extra_forbidden":
        inside = error["input"]
        while isinstance(inside, dict) and len(inside) == 1:
            ((name, inside),) = inside.items()
            location.append(str(name))
        return f"unknown key '{key}'{meant('.'.join(location))}"
    message, value = error["msg"].removeprefix("Value error, "), error["input"]
    if error["type"] == "missing":
        return f"'{key}' is missing"
    if error["type"] in _MUST_BE:
        expected = _MUST_BE[error["type"]].format(**error.get("ctx", {}))
        return f"{key}={value!r} must be {expected}{_value_meant(error)}"
    return f"{key}={value!r}: {message}" if key else message


_MUST_BE = {
    "bool_parsing": "true or false",
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_parsing": "a number",
    "float_type": "a number",
    "greater_than": "greater than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "int_from_float": "an integer",
    "int_parsing": "an integer",
    "int_type": "an integer",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
    "list_type": "a list",
    "literal_error": "{expected}",
    "model_type": "a mapping of settings",
    "string_type": "text",
}
"""What a value must be, by the type of pydantic's error."""


def _value_meant(error: Any) -> str:
    """Return which of the few values of a setting an invalid one means."""
    if error["type"] != "literal_error":
        return ""
    values = re.findall("'([^']*)'", error["ctx"]["expected"])
    return nearest(str(error["input"]), values, cutoff=0.75)


def meant(key: str) -> str:
    """Return which settings an unknown name may mean, or else which settings its section has.

    A name that other trainers use in another sense has its own answer. The candidates are, in this order:
    settings of that name in other sections; settings that other trainers call by that name; settings with
    these initials; the closest name in its section; the closest of all.
    """
    *section, name = key.lower().replace("-", "_").split(".")
    if name in OTHERWISE:
        return f"; {OTHERWISE[name]}"
    keys = settings()
    whole = ".".join([*section[-1:], name])
    here = [k for k in keys if k[:-1] == section]
    alike = (
        [".".join(k) for k in keys if k[-1] == name]
        or [SYNONYMS[n] for n in (whole, name) if n in SYNONYMS][:1]
        or [".".join(k) for k in keys if len(name) > 1 and _initials(k[-1]) == name]
        or _closest(name, {k[-1]: ".".join(k) for k in here})
        or _closest(name, SYNONYMS | {k[-1]: ".".join(k) for k in keys})
    )
    if alike:
        return f"; did you mean {' or '.join(map(repr, alike))}?"
    return f" (known here: {', '.join(k[-1] for k in here)})" if here else " (`areal config` lists all)"


def _closest(name: str, known: dict[str, str]) -> list[str]:
    return [known[found] for found in difflib.get_close_matches(name, known, n=1, cutoff=0.75)]


def settings() -> list[list[str]]:
    """Return the path of each section and setting, as a list of names."""
    return list(_keys(Config))


def _keys(model: Any, *section: str) -> Iterator[list[str]]:
    for name, field in model.model_fields.items():
        yield [*section, name]
        if hasattr(field.annotation, "model_fields"):
            yield from _keys(field.annotation, *section, name)


def _initials(name: str) -> str:
    return "".join(word[0] for word in name.split("_"))
