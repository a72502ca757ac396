"""The origin of each setting: layers of settings, of which later ones win, and the printed result."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import yaml

from areal.config.loading import settings_on
from areal.config.settings import Config

Layer = tuple[str, dict[str, Any]]
"""The origin of settings, and the settings, nested."""


def merged(layers: Sequence[Layer]) -> dict[str, Any]:
    """Merge all layers into one nested dict."""
    return functools.reduce(settings_on, (settings for _, settings in layers), {})


def dump_with_origins(config: Config, layers: Sequence[Layer], planned: Config) -> str:
    """Return all settings as YAML that can be read back, each with a comment that names its origin.

    Settings that the preset of the objective decides appear with their values.

    Args:
        config: the merged layers.
        layers: later ones win.
        planned: the same configuration, completed for the machine and its memory.
    """
    asked, decided = leaves(config), leaves(planned)
    shown = decided | {("learner", name): value for name, value in planned.learner.choices().items()}
    lines: list[str] = []
    for path, value in shown.items():
        if len(path) > 1 and f"{path[0]}:" not in lines:
            lines.append(f"{path[0]}:")
        origin = _origin(path, layers)
        if asked[path] != decided[path]:
            origin = "memory plan"
        elif asked[path] is None and value is not None:
            origin = f"preset {config.learner.objective}"
        lines += _line(path, value, origin)
    return "\n".join(lines) + "\n"


def leaves(config: Config) -> dict[tuple[str, ...], Any]:
    """Return each setting by its path; a setting that is a mapping, such as env_options, is one setting."""
    found: dict[tuple[str, ...], Any] = {}
    for name, value in config.model_dump(mode="json").items():
        if hasattr(Config.model_fields[name].annotation, "model_fields"):
            found |= {(name, key): inner for key, inner in value.items()}
        else:
            found[name,] = value
    return found


def _origin(path: tuple[str, ...], layers: Sequence[Layer]) -> str:
    origin = "default"
    for name, settings in layers:
        found: Any = settings
        for part in path:
            found = found.get(part) if isinstance(found, dict) else None
        if found is not None:
            origin = name
    return origin


def _line(path: tuple[str, ...], value: Any, origin: str) -> list[str]:
    """Return the lines of a setting; the origin precedes a value of several lines."""
    indent = "  " * (len(path) - 1)
    text = yaml.safe_dump([value], allow_unicode=True, default_flow_style=True, sort_keys=False, width=2**16)
    if text.count("\n") == 1:
        return [f"{indent}{path[-1]}: {text.strip()[1:-1]}  # {origin}"]
    block = yaml.safe_dump({path[-1]: value}, allow_unicode=True, sort_keys=False)
    return [f"{indent}# {origin}", *(indent + line for line in block.rstrip("\n").split("\n"))]
