"""The message about an invalid setting, with the name that was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

from areal.config.settings import Config
from areal.config.synonyms import OTHERWISE, RENAMED, SYNONYMS


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
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}={error['input']!r}: {message}" if key else message


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
