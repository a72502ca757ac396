"""``areal config``: explains the settings and the presets in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.text import Text

from areal.config.complaints import meant
from areal.config.describe import Described, describe_group, described, groups
from areal.config.objective import CHOICES, PRESETS, Objective
from areal.errors import UserError, nearest
from areal.telemetry.tables import fitted


def explain(key: str | None, width: int) -> Iterator[Any]:
    """Yield the explanation of a setting, a group, a preset, or everything, for a terminal of this width.

    Raises:
        UserError: nothing has that name.
    """
    inside = groups()
    if key is None:
        for name in inside:
            yield from _group(name, width)
    elif key in inside and key:
        yield from _group(key, width)
    elif key in PRESETS:
        yield Text(f"learner.objective={key}: {_summary(Objective(objective=key))}")
    else:
        alone = {setting.key: setting for name in inside for setting in describe_group(name)}
        if key not in alone:
            raise UserError(
                f"'{key}' is not a setting, group or preset{nearest(key, PRESETS, 0.7) or meant(key)}"
            )
        yield from _one(alone[key])


def _group(name: str, width: int) -> Iterator[Any]:
    if name:
        yield Text(f"\n{name}: {described(name, groups()[name].__doc__)}")
    rows = [
        (setting.key, _plain(setting.default), _plain(f"{setting.help} Value: {setting.value}."))
        for setting in describe_group(name)
    ]
    yield from fitted(("setting", "default", "meaning"), rows, width)


def _one(setting: Described) -> Iterator[Any]:
    yield Text(f"{setting.key}: {_plain(setting.help)}")
    yield Text(f"value: {_plain(setting.value)}")
    yield Text(f"default: {_plain(setting.default)}")
    section, _, name = setting.key.rpartition(".")
    if section == "learner" and name == "objective":
        yield from _presets()
    elif section == "learner" and name in CHOICES:
        yield Text("default for each preset of learner.objective:")
        for preset in PRESETS:
            yield Text(f"  {preset}: {_value(Objective(objective=preset), name)}")


def _presets() -> Iterator[Any]:
    """Yield a line for each preset, with its differences from the first."""
    first, *others = PRESETS
    yield Text(f"  {first}: {_summary(Objective())}")
    yield Text(f"Differences from {first}:")
    for name in others:
        yield Text(f"  {name}: {_summary(Objective(objective=name), Objective())}")


def _summary(choices: Objective, but: Objective | None = None) -> str:
    values = {name: _value(choices, name) for name in CHOICES}
    return ", ".join(f"{n}={v}" for n, v in values.items() if but is None or v != _value(but, n))


def _value(choices: Objective, name: str) -> str:
    value = getattr(choices, name)
    if value is None:
        return {"clip_high": f"{choices.clip:g}"}.get(name, "none")
    return (
        str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else value
    )


def _plain(text: str) -> str:
    return text.replace("`", "")
