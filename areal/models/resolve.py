"""Resolves the name of a model: the starter, a folder, a run directory or a hub id."""

from __future__ import annotations

import re
from pathlib import Path

from areal.config import STARTER
from areal.errors import UserError, nearest
from areal.models.folder import check_folder, read_json

FACTS = "areal.json"
"""File that a run writes beside a model: ``{"updates": N}``."""
_MODEL_FORMS = f"a model is '{STARTER}', a folder, or a hub id such as Org/Model"
_HUB_PART = re.compile(r"[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?", re.ASCII)


def resolve_model(name: str, weights: bool = True) -> str:
    """Return the name for ``transformers`` and vLLM: an absolute folder, or the hub id unchanged.

    ``'starter'`` is the model that ships with areal. A folder must contain a complete model. A run
    directory stands for the ``model`` folder inside it or, if the run is not finished, for that of its last
    checkpoint. Nothing is downloaded.

    Args:
        weights: whether a folder must contain weights; a plan needs none.

    Raises:
        UserError: the folder does not exist or is not a model (the message says what is missing), or the name
            is invalid.
    """
    if name == STARTER:
        return str(Path(__file__).parent / STARTER)
    if not name or name != name.strip() or not name.isprintable():
        raise UserError(f"{name!r} is not the name of a model; {_MODEL_FORMS}")
    path = Path(name).expanduser()
    if path.is_dir():
        return str(check_folder(_model_of_run(path), weights).resolve())
    if path.exists():
        raise UserError(f"'{name}' is a file; give its folder, '{path.parent}'")
    if name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name or name.endswith("/"):
        raise UserError(_missing_folder(path))
    owner, slash, repository = name.partition("/")
    if not slash:
        known = [STARTER, *_folders(Path())]
        raise UserError(f"unknown model '{name}'{nearest(name, known) or '; ' + _MODEL_FORMS}")
    # 'runs/typo' has the form of a hub id; an existing folder 'runs' shows that a path was meant.
    if path.parent.is_dir():
        raise UserError(
            f"{_missing_folder(path)} (to use '{name}' from the hub, start in a directory without a folder "
            f"'{owner}')"
        )
    if not all(_HUB_PART.fullmatch(part) and "--" not in part for part in (owner, repository)):
        raise UserError(f"'{name}' is neither a folder nor a hub id; {_MODEL_FORMS}")
    return name


def last_checkpoint(name: str) -> Path | None:
    """Return the last complete checkpoint of a run directory without a final model, if ``name`` is one."""
    path = Path(name).expanduser()
    if name == STARTER or (path / "config.json").exists():
        return None
    # Only complete checkpoints have this name (areal.runtime.checkpoint).
    found = {int(c.name[5:]): c for c in path.glob("checkpoints/step-*") if c.name[5:].isdigit()}
    newest = max(found, default=0)
    return None if not found or is_final(path / "model", newest) else found[newest]


def is_final(model: Path, updates: int) -> bool:
    """Return whether the folder of a run's final model exists, with at least this number of updates.

    If a run is resumed for more updates, its folder has the earlier final model until the new one exists.
    """
    if not (model / "config.json").is_file():
        return False
    facts = model / FACTS
    return not facts.is_file() or int(read_json(facts).get("updates", 0)) >= updates


def _model_of_run(path: Path) -> Path:
    if (path / "config.json").exists():
        return path
    run = path
    if (checkpoint := last_checkpoint(str(path))) is not None:
        path = checkpoint
        if not (path / "model").is_dir():
            raise UserError(
                f"'{path}' contains only an adapter, and its run has no final model yet; write one with "
                f"`areal export {run} FOLDER`, or finish the run with `areal train --resume {run}`"
            )
    elif (path / "config.yaml").is_file() and not (path / "model").is_dir():
        raise UserError(
            f"the run '{run}' has no model yet, because it ended before its first checkpoint; resume it "
            f"with `areal train --resume {run}`"
        )
    return path / "model" if (path / "model" / "config.json").is_file() else path


def _folders(parent: Path) -> list[str]:
    try:
        return sorted(child.name for child in parent.iterdir() if child.is_dir())
    except OSError:
        return []


def _missing_folder(path: Path) -> str:
    parent, siblings = path.parent, _folders(path.parent)
    if not parent.is_dir():
        return f"the folder '{path}' does not exist (nor does '{parent}'); check the path"
    return f"the folder '{path}' does not exist{nearest(path.name, siblings) or '; check the path'}"
