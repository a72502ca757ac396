"""Reads settings from a YAML file, ``key.sub=value`` overrides and values; later ones win.

Anything that cannot be read, or is not a setting, raises a UserError.
"""

from __future__ import annotations

import codecs
import copy
import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from areal.config.complaints import complaint
from areal.config.settings import Config
from areal.errors import UserError

_FIELD = re.compile(r"\{\w+(?:\[[^\[\]]*\]|\.\w+)*\}")
"""A field of a template."""


def load_config(
    path: str | Path | None = None, overrides: list[str] | None = None, values: dict[str, Any] | None = None
) -> Config:
    """Build a configuration from a YAML file, ``key.sub=value`` overrides and a (nested or dotted) dict.

    Later sources win: defaults, file, overrides, values.

    Raises:
        UserError: unknown key (with the nearest known one), wrong type, impossible size, unreadable file.
    """
    data = merged_settings(path, overrides, values)
    return parse_config(data, source=str(path) if path is not None else None)


def merged_settings(
    path: str | Path | None = None, overrides: list[str] | None = None, values: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return what :func:`load_config` would validate, as a nested dict."""
    data: dict[str, Any] = {}
    if path is not None:
        _merge(data, _read_yaml(Path(path)))
    _merge_overrides(data, overrides or [])
    for key, value in (values or {}).items():
        _merge(data, _nest(key, value))
    return data


def settings_on(base: dict[str, Any], settings: dict[str, Any]) -> dict[str, Any]:
    """Return nested settings, overridden by others."""
    data = copy.deepcopy(base)
    _merge(data, settings)
    return data


def _merge_overrides(data: dict[str, Any], overrides: list[str]) -> None:
    for item in overrides:
        key, sep, text = item.partition("=")
        if not sep or not key:
            raise UserError(
                f"'{item}' is not an override; write key.sub=value, such as rollout.max_staleness=4"
            )
        _merge(data, _nest(key, _given(item, text)))


def _given(item: str, text: str) -> Any:
    """Return the value of an override: YAML, or a template with fields, such as ``Q: {question}``."""
    if _FIELD.match(text):  # YAML reads {label} as a mapping of label to null
        return text
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        if _FIELD.search(text):
            return text
        raise UserError(f"the value in '{item}' is not valid YAML; put it in quotes") from error
    if isinstance(value, dict | list) and not text.lstrip().startswith(("{", "[")):
        return text  # words that contain a colon
    return _number(value)


def override_config(config: Config, overrides: list[str]) -> Config:
    """Return a configuration with ``key.sub=value`` overrides applied."""
    data = config.model_dump(mode="json")
    _merge_overrides(data, overrides)
    return parse_config(data)


def parse_config(data: dict[str, Any], source: str | None = None) -> Config:
    """Validate a nested dict."""
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        where = f" (from {source} and the command line)" if source else ""
        raise UserError("configuration" + where + ": " + "; ".join(map(complaint, error.errors()))) from error


def dump_config(config: Config) -> str:
    """Return the whole configuration as YAML that :func:`load_config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.safe_load(_text(path))
    except OSError as error:
        raise UserError(f"cannot read the configuration file {path}: {error.strerror}") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
        raise UserError(f"{path}{line}: not valid YAML: {' '.join(problem.split())}") from error
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise UserError(
            f"{path}: a mapping of settings is expected, not a {type(data).__name__}; write lines such as "
            "steps: 50"
        )
    nested: dict[str, Any] = {}
    for key, value in data.items():
        _merge(nested, _nest(str(key), value))
    return nested


def _text(path: Path) -> str:
    """Read a file in the encoding of its byte order mark, or else in UTF-8."""
    data = path.read_bytes()
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    encoding = "utf-16" if wide else "utf-8-sig"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}, line {line}: the file is not valid {encoding.removesuffix('-sig').upper()} (byte "
            f"0x{data[error.start]:02x}); save it in UTF-8"
        ) from error


def _nest(key: str, value: Any) -> dict[str, Any]:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _merge(into: dict[str, Any], other: dict[str, Any]) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _number(value: Any) -> Any:
    """Read ``1e-3`` as a number; in YAML 1.1 it is a string, because it has no dot."""
    if isinstance(value, str):
        try:
            return float(value) if "e" in value.lower() and value[0] in "+-.0123456789" else value
        except ValueError:
            return value
    return value
