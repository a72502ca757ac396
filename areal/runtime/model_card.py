"""The model card of an exported model: its base, its settings, and its scores."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml

from areal.config import STARTER, Config
from areal.config.origins import leaves
from areal.telemetry.run_directory import RunDirectory, read_metrics
from areal.telemetry.scores import scores_of

_HUB = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)
_GROUPS = {"rollout", "learner", "evaluation"}
"""Settings that describe the training; some of the others are secrets or paths of a machine."""


def model_card(directory: RunDirectory, config: Config, step: int | None) -> str:
    """Return a README.md for the Hugging Face hub: a block of YAML, and a table of the run's facts.

    Args:
        directory: directory of the run.
        config: its settings.
        step: the update of the model; None: the final one.
    """
    rows = read_metrics(directory.path)
    done = step if step is not None else max((row["step"] for row in rows if "time/step" in row), default=0)
    scores = {at: score for at, score in scores_of(rows).items() if at <= done}
    head: dict[str, Any] = {"library_name": "transformers", "tags": ["reinforcement-learning", "areal"]}
    on_hub = _HUB.fullmatch(config.model) and not Path(config.model).exists()
    if on_hub:
        head["base_model"] = config.model
    facts = {
        "Trained from": f"`{config.model}`" if on_hub or config.model == STARTER else "a local folder",
        "Environment": f"`{config.env}`",
        "Updates": str(done),
        **_scored(scores),
    }
    return "\n".join(
        [
            f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n",
            f"# {directory.path.name}\n",
            "A language model trained by asynchronous reinforcement learning with areal.\n",
            *_table(("", ""), facts.items()),
            "\nSettings that differ from the defaults:\n",
            *_table(("setting", "value"), _settings(config)),
            "",
        ]
    )


def _scored(scores: dict[int, float]) -> dict[str, str]:
    """Return the first and the last held-out score, if there are any."""
    if not scores:
        return {"Held-out score": "not measured"}
    shown = sorted({min(scores), max(scores)})
    return {f"Held-out score after {step} updates": f"{scores[step]:.3f}" for step in shown}


def _settings(config: Config) -> Iterable[tuple[str, str]]:
    defaults = leaves(Config())
    for path, value in leaves(config).items():
        if value != defaults.get(path) and (path[0] in _GROUPS or path == ("agent",) or path == ("seed",)):
            yield f"`{'.'.join(path)}`", f"`{value}`"


def _table(head: tuple[str, str], rows: Iterable[tuple[str, str]]) -> list[str]:
    escaped = ((name, value.replace("|", "\\|").replace("\n", " ")) for name, value in rows)
    return [f"| {head[0]} | {head[1]} |", "|---|---|", *(f"| {name} | {value} |" for name, value in escaped)]
