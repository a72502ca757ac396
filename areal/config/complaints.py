"""What is told of a wrong setting: in a few words, and with the name that was meant."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from areal.config.settings import Config
from areal.errors import nearest


def told(error: Any) -> str:
    """Say what pydantic found wrong with one setting, or which one was meant by a name that none has."""
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        return f"unknown key '{key}'{_meant(location)}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{key}={error['input']!r}: {message}" if key else message


def _meant(location: list[str]) -> str:
    """Say which keys were meant: of that name elsewhere, abbreviated to it, or close to it in its section."""
    *section, name = location
    keys = list(_keys(Config))
    alike = [".".join(key) for key in keys if name in (key[-1], _initials(key[-1]))]
    if alike:
        return f"; did you mean {' or '.join(map(repr, alike))}?"
    known = [key[-1] for key in keys if key[:-1] == section]
    return nearest(name, known) or f" (known here: {', '.join(known)})"


def _keys(model: Any, *section: str) -> Iterator[list[str]]:
    """Each section and setting, with the sections that it is in before it."""
    for name, field in model.model_fields.items():
        yield [*section, name]
        if hasattr(field.annotation, "model_fields"):
            yield from _keys(field.annotation, *section, name)


def _initials(name: str) -> str:
    return "".join(word[0] for word in name.split("_"))
