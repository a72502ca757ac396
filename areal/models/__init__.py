"""Find the model that a name means, and say in one line what is wrong if there is none.

>>> from areal.models import load_tokenizer, resolve_model
>>> folder = resolve_model("starter")
>>> load_tokenizer(folder).eos_token
'<|end|>'

Importing this module is cheap; ``transformers`` is imported when a tokenizer is loaded.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from areal.config import STARTER
from areal.errors import UserError, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["load_tokenizer", "resolve_model"]

_MODEL_FORMS = f"a model is '{STARTER}', a folder, or a hub id such as Org/Model"
_HUB_PART = re.compile(r"[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?", re.ASCII)
_LIMITS = (
    "max_position_embeddings",
    "n_positions",
    "max_sequence_length",
    "seq_length",
    "max_seq_len",
    "n_ctx",
)
"""How configurations name the longest sequence."""
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "tekken.json")


_UNREACHABLE = (
    "cannot load '{path}' from the Hugging Face hub; check the spelling and the network, log in with "
    "`hf auth login` if it is gated, or download it and give its folder ({error})"
)


def resolve_model(name: str) -> str:
    """Return what ``transformers`` and vLLM load for ``name``: an absolute folder, or the hub id unchanged.

    ``'starter'`` is the model that ships with areal. A folder is checked to hold a whole model; a run
    directory stands for the ``model`` folder inside it, or, where the run did not come to its end, for that
    of its last checkpoint. Nothing is downloaded.

    Raises:
        UserError: no such folder, a folder that is no model (saying what is missing), or an impossible name.
    """
    if name == STARTER:
        return str(Path(__file__).parent / STARTER)
    if not name or name != name.strip() or not name.isprintable():
        raise UserError(f"{name!r} is no model name; {_MODEL_FORMS}")
    path = Path(name).expanduser()
    if path.is_dir():
        return str(_check_folder(_model_of_run(path)).resolve())
    if path.exists():
        raise UserError(f"model '{name}' is a file; give the folder that holds it: '{path.parent}'")
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name or name.endswith("/"):
        raise UserError(_missing_folder(path))
    owner, slash, repository = name.partition("/")
    if not slash:
        known = [STARTER, *_folders(Path())]
        raise UserError(f"unknown model '{name}'{nearest(name, known) or '; ' + _MODEL_FORMS}")
    # 'runs/typo' has the shape of a hub id; an existing folder 'runs' tells that a path was meant.
    if path.parent.is_dir():
        raise UserError(
            f"{_missing_folder(path)} (if you mean the hub's '{name}', start where no folder '{owner}' is)"
        )
    if not all(_HUB_PART.fullmatch(part) and "--" not in part for part in (owner, repository)):
        raise UserError(f"'{name}' is neither a folder nor a hub id; {_MODEL_FORMS}")
    return name


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a folder or hub id that :func:`resolve_model` returned.

    Raises:
        UserError: no such repository, no network, or tokenizer files that do not load.
    """
    from transformers import AutoTokenizer

    local = Path(path) / "tokenizer.json"
    if local.is_file():
        # The tokenizers library raises a bare Exception for a damaged file; find that out before it does.
        _read_json(local)
    try:
        return AutoTokenizer.from_pretrained(path)
    except (OSError, ValueError, KeyError, ImportError) as error:
        if Path(path).is_dir():
            raise UserError(f"the tokenizer in '{path}' does not load: {_first_line(error)}") from error
        raise UserError(unreachable(path, error)) from error


def unreachable(path: str, error: Exception) -> str:
    """Return what to say of a hub id that does not load."""
    return _UNREACHABLE.format(path=path, error=_first_line(error))


def model_config(path: str) -> dict[str, Any]:
    """Return what the config.json of a model of :func:`resolve_model` says.

    Raises:
        UserError: a hub id whose configuration cannot be read.
    """
    folder = Path(path)
    if folder.is_dir():
        return _read_json(folder / "config.json")
    from transformers import PretrainedConfig

    try:
        return PretrainedConfig.get_config_dict(path)[0]
    except (OSError, ValueError) as error:
        raise UserError(unreachable(path, error)) from error


def context_limit(path: str) -> int | None:
    """Return the longest sequence that a model of :func:`resolve_model` is made for, in tokens, if it says.

    Raises:
        UserError: a hub id whose configuration cannot be read.
    """
    config = model_config(path)
    # Models of several parts keep the language model's settings one level down.
    for settings in (config, config.get("text_config") or {}):
        for key in _LIMITS:
            if settings.get(key):
                return settings[key]
    return None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


def _folders(parent: Path) -> list[str]:
    try:
        return sorted(child.name for child in parent.iterdir() if child.is_dir())
    except OSError:
        return []


def _missing_folder(path: Path) -> str:
    parent, siblings = path.parent, _folders(path.parent)
    if not parent.is_dir():
        return f"no folder '{path}' ('{parent}' does not exist either); check the path"
    return f"no folder '{path}'{nearest(path.name, siblings) or '; check the path'}"


def last_checkpoint(name: str) -> Path | None:
    """Return the last whole checkpoint of a run directory that has no final model, if ``name`` is one."""
    path = Path(name).expanduser()
    if name == STARTER or (path / "config.json").exists() or (path / "model" / "config.json").is_file():
        return None
    # Under this name only whole ones are found (areal.runtime.checkpoint).
    found = {int(c.name[5:]): c for c in path.glob("checkpoints/step-*") if c.name[5:].isdigit()}
    return found[max(found)] if found else None


def _model_of_run(path: Path) -> Path:
    if (path / "config.json").exists():
        return path
    run = path
    if (checkpoint := last_checkpoint(str(path))) is not None:
        path = checkpoint
        if not (path / "model").is_dir():
            raise UserError(
                f"'{path}' holds an adapter only, and its run has no final model yet; write one with "
                f"`areal export {run} FOLDER`, or let the run end with `areal train --resume {run}`"
            )
    elif (path / "config.yaml").is_file() and not (path / "model").is_dir():
        raise UserError(
            f"the run '{run}' has no model yet: it ended before its first checkpoint; go on with "
            f"`areal train --resume {run}`"
        )
    return path / "model" if (path / "model" / "config.json").is_file() else path


def _check_folder(path: Path) -> Path:
    """Return ``path`` if it holds a configuration, weights and a tokenizer.

    Raises:
        UserError: naming what is missing or damaged.
    """
    config_path = path / "config.json"
    if not config_path.is_file():
        if (path / "adapter_config.json").is_file():
            raise UserError(
                f"'{path}' holds a LoRA adapter; merge it into its base model and give that folder"
            )
        raise UserError(f"'{path}' is no model: it has no config.json (nor a model/ folder that has one)")
    config = _read_json(config_path)
    missing = [key for key in ("model_type", "architectures") if not config.get(key)]
    if missing:
        raise UserError(f"'{path}' is no model: its config.json has no {' and no '.join(missing)}")
    _check_weights(path)
    if not any((path / file).is_file() for file in _TOKENIZER_FILES):
        raise UserError(f"'{path}' has no tokenizer: none of {', '.join(_TOKENIZER_FILES)} is there")
    return path


def _check_weights(path: Path) -> None:
    files = sorted([*path.glob("*.safetensors"), *path.glob("*.bin")])
    if not files:
        raise UserError(f"'{path}' has no weights: no *.safetensors (nor *.bin) file is there")
    for index in (path / "model.safetensors.index.json", path / "pytorch_model.bin.index.json"):
        if not index.is_file():
            continue
        weights = _read_json(index).get("weight_map")
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
    """Check that a file is as long as its own header says: a length in 8 bytes, JSON, and the tensors."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        header = opened.read(length) if length <= size - 8 else b""
    try:
        tensors = json.loads(header)
        ends = [value["data_offsets"][1] for name, value in tensors.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        raise UserError(f"'{file}' is no safetensors file; copy or download the weights again") from None
    if 8 + length + max(ends, default=0) != size:
        raise UserError(f"'{file}' is cut off or damaged; copy or download the weights again")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {os.strerror(error.errno or 0)}") from error
    except ValueError as error:
        raise UserError(
            f"{path} is not valid JSON: {_first_line(error)}; copy or download it again"
        ) from error
    if not isinstance(data, dict):
        raise UserError(f"{path} is not a JSON object; copy or download it again")
    return data
