"""Merges a peft adapter into a complete model, from which a run can start."""

from __future__ import annotations

import importlib.util
import shutil
import warnings
from pathlib import Path
from typing import Any

from areal.errors import UserError, install_hint
from areal.models.folder import first_line, has_tokenizer, read_json
from areal.models.loading import load_tokenizer
from areal.models.resolve import resolve_model
from areal.models.sight import auto_class, saved_beside

_SHOWN = 300
"""Maximum number of characters that are shown of an error of peft."""


def merge_adapter(adapter: str | Path, folder: str | Path) -> str:
    """Write the model with an adapter merged into its base, in the type of the base.

    The product is added in float32 and rounded once. The tokenizer is the adapter's, if it has one.

    Args:
        adapter: a folder that ``peft`` wrote, with an adapter of a causal language model.
        folder: a new or empty folder.

    Returns:
        The base: a folder or a hub id.

    Raises:
        UserError: the adapter or the base does not exist, or the folder cannot be written.
    """
    source, target = Path(adapter).expanduser(), Path(folder).expanduser()
    if not (source / "adapter_config.json").is_file():
        raise UserError(
            f"'{source}' is not an adapter, because it has no adapter_config.json; give the folder of an "
            "adapter"
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} already exists; give a new folder")
    if importlib.util.find_spec("peft") is None:
        raise UserError(f"a merge requires peft; install it with {install_hint('lora')}")
    config = read_json(source / "adapter_config.json")
    if not (named := config.get("base_model_name_or_path")):
        raise UserError(
            f"'{source}' does not name its base model; set base_model_name_or_path in its adapter_config.json"
        )
    base = resolve_model(str(named))
    partial = target.with_name(f".partial-{target.name}")
    try:
        _write(source, base, partial)
        if target.exists():  # it is empty
            target.rmdir()
        partial.rename(target)
    except OSError as error:
        raise UserError(f"cannot merge '{source}' into '{target}': {first_line(error)}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return base


def _write(source: Path, base: str, folder: Path) -> None:
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights
    from safetensors import SafetensorError
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(base)
    model = auto_class(config).from_pretrained(base, dtype=torch.float32)
    try:
        stored = load_peft_weights(str(source), device="cpu")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of a problem for which the code below raises an error
            adapted = PeftModel.from_pretrained(model, str(source))
        if wrong := get_peft_model_state_dict(adapted).keys() ^ stored.keys():
            raise ValueError(f"only one of them has {min(wrong)}, and {len(wrong) - 1} more")
        if not hasattr(adapted, "merge_and_unload"):
            raise ValueError(f"adapters of type {adapted.active_peft_config.peft_type} cannot be merged")
        merged: Any = adapted.merge_and_unload(safe_merge=True)
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:_SHOWN]
        raise UserError(f"the adapter '{source}' does not fit '{base}': {reason}") from error
    shutil.rmtree(folder, ignore_errors=True)
    merged.to(config.dtype or torch.float32).save_pretrained(folder)
    saved_beside(base).save_pretrained(folder)
    if has_tokenizer(source):
        load_tokenizer(str(source)).save_pretrained(folder)
