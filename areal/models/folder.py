"""Checks that a folder contains a complete model: configuration, weights and tokenizer, none damaged."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from areal.errors import UserError

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")


def check_folder(path: Path, weights: bool = True) -> Path:
    """Return ``path`` if it contains a configuration, weights and a tokenizer.

    Args:
        weights: whether it must contain weights; a plan needs none.

    Raises:
        UserError: a file is missing or damaged; the message names it.
    """
    config_path = path / "config.json"
    if not config_path.is_file():
        if (path / "adapter_config.json").is_file():
            raise UserError(
                f"'{path}' contains only an adapter; merge it with its base model, `areal models merge "
                f"{path} FOLDER`, and give that folder"
            )
        raise UserError(f"'{path}' is not a model: it has neither config.json nor a folder model/ with one")
    config = read_json(config_path)
    missing = [key for key in ("model_type", "architectures") if not config.get(key)]
    if missing:
        raise UserError(f"'{path}' is not a model: its config.json has no {' and no '.join(missing)}")
    if weights:
        _check_weights(path)
    if not has_tokenizer(path):
        raise UserError(f"'{path}' has no tokenizer; add one of {', '.join(_TOKENIZER_FILES)}")
    return path


def has_tokenizer(path: Path) -> bool:
    """Return whether a folder contains the files of a tokenizer."""
    return any((path / file).is_file() for file in _TOKENIZER_FILES)


def _check_weights(path: Path) -> None:
    files = sorted([*path.glob("*.safetensors"), *path.glob("*.bin")])
    if not files:
        raise UserError(f"'{path}' has no weights; add *.safetensors or *.bin files")
    for index in (path / "model.safetensors.index.json", path / "pytorch_model.bin.index.json"):
        if not index.is_file():
            continue
        weights = read_json(index).get("weight_map")
        shards = set(weights.values()) if isinstance(weights, dict) else set()
        absent = sorted(str(shard) for shard in shards if not (path / str(shard)).is_file())
        if absent:
            raise UserError(
                f"'{path}' lacks {len(absent)} of {len(shards)} weight files, such as {absent[0]}"
            )
    for file in files:
        with file.open("rb") as opened:
            start = opened.read(24)
        if not start:
            raise UserError(f"'{file}' is empty; copy or download the weights again")
        if start.startswith(b"version https://git-lfs"):
            raise UserError(f"'{file}' is a Git LFS pointer, not weights; run `git lfs pull` in '{path}'")
        if file.suffix == ".safetensors":
            _check_safetensors(file)


def _check_safetensors(file: Path) -> None:
    """Check that a file has the length in its header: a length in 8 bytes, JSON, and the tensors."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = opened.read(length) if length <= size - 8 else b""
    try:
        tensors = json.loads(header)
        ends = [value["data_offsets"][1] for name, value in tensors.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise UserError(f"'{file}' is not a safetensors file; copy or download the weights again") from None
    if 8 + length + max(ends, default=0) != size:
        raise UserError(f"'{file}' is truncated or damaged; copy or download the weights again")


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raises UserError if it cannot be read or is not an object."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {os.strerror(error.errno or 0)}") from error
    except ValueError as error:
        raise UserError(
            f"{path} is not valid JSON: {first_line(error)}; copy or download it again"
        ) from error
    if not isinstance(data, dict):
        raise UserError(f"{path} is not a JSON object; copy or download it again")
    return data


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
