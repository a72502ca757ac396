"""Exports the model of a run after any update with a checkpoint, in Hugging Face format."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Literal

from areal.config import Config, load_config
from areal.errors import UserError
from areal.models.resolve import is_final
from areal.runtime import checkpoint
from areal.runtime.model_card import model_card
from areal.telemetry.run_directory import RunDirectory, read_metrics
from areal.telemetry.scores import best_of, scores_of

Step = int | Literal["best"] | None


def export_model(run: str | Path, folder: str | Path, step: Step = None) -> int | None:
    """Write the model of a run to a new folder, as :func:`areal.export` does.

    Returns:
        Number of the model's update; None: the final model.
    """
    directory, target = RunDirectory.open(run), Path(folder).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target} already exists; give a new or empty folder")
    kept = checkpoint.versions(directory.checkpoints)
    config = load_config(directory.path / "config.yaml")
    if step is None and is_final(directory.model, max(kept, default=0)):
        _copy(directory.model, target, model_card(directory, config, None))
        return None
    chosen = _chosen(directory, list(kept), step)
    if what := checkpoint.damage(kept[chosen]):
        others = ", ".join(str(version) for version in kept if version != chosen)
        way_out = f"choose another one with --step: {others}" if others else "there is no other one"
        raise UserError(f"the checkpoint of update {chosen} is damaged ({what}); {way_out}")
    card = model_card(directory, config, chosen)
    if (kept[chosen] / "model").is_dir():
        _copy(kept[chosen] / "model", target, card)
    else:
        _merge(directory, config, kept[chosen], target, card)
    return chosen


def _chosen(directory: RunDirectory, kept: list[int], step: Step) -> int:
    if not kept:
        raise UserError(f"{directory.path} has no checkpoint yet; export the model after the first one")
    there = f"its checkpoints are those of updates {', '.join(map(str, kept))}"
    if step is None:
        return kept[-1]
    if step == "best":
        scores = scores_of(read_metrics(directory.path))
        best = best_of({step: score for step, score in scores.items() if step in kept})
        if best is None:
            raise UserError(
                f"{directory.path} has no evaluated checkpoint ({there}); set evaluation.every=N to "
                "evaluate during training, or give --step"
            )
        return best
    if step not in kept:
        raise UserError(
            f"{directory.path} has no checkpoint of update {step}; {there} (checkpoint.every and "
            "checkpoint.keep decide which are kept)"
        )
    return step


def _copy(model: Path, target: Path, card: str) -> None:
    """Copy a folder and add a model card; an incomplete copy never has its name."""
    partial = target.with_name(f".partial-{target.name}")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(model, partial)
        (partial / "README.md").write_text(card, encoding="utf-8")
        if target.exists():  # it is empty
            target.rmdir()
        partial.rename(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"cannot write {target}: {error.strerror or error}") from error


def _merge(directory: RunDirectory, config: Config, saved: Path, target: Path, card: str) -> None:
    """Write the full model of a checkpoint that only has an adapter."""
    import torch

    from areal.config import override_config
    from areal.learner.parallelize import compute_dtype
    from areal.models import resolve_model
    from areal.models.sight import saved_beside
    from areal.runtime.learner import make_learner
    from areal.runtime.plan import engine_dtype

    model, device = resolve_model(config.model), directory.starts()[-1]["device"]
    held = str(compute_dtype(config.learner, torch.device(device))).removeprefix("torch.")
    learner = make_learner(override_config(config, [f"learner.dtype={held}"]), model, "cpu", 1)
    checkpoint.load_learner(saved, learner)
    dtype = engine_dtype(config, device)
    made = target.with_name(f".partial-export-{target.name}")
    try:
        made.mkdir(parents=True, exist_ok=True)
        checkpoint.Checkpoints(made, learner, saved_beside(model), 1, dtype).export(made)
        _copy(made / "model", target, card)
    finally:
        shutil.rmtree(made, ignore_errors=True)
