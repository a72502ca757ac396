"""Rollouts and runs for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from areal.telemetry.plain import plain
from areal.telemetry.tables import fitted
from areal.trajectory import Episode, Trajectory
from areal.viewer.rollouts import Decode, Rollout, parts_of
from areal.viewer.runs import RunSummary

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

_ENDS = {
    "eos": "ended on its own",
    "stop": "ended by a stop string",
    "length": "truncated",
    "abort": "aborted",
}


def shown(rollout: Rollout, decode: Decode) -> Text:
    """Return a rollout with its reward and its conversations; samples follow the version of their weights."""
    from rich.text import Text

    episode = rollout.episode
    text = Text()
    text.append(
        f"update {rollout.step}, group {rollout.group}, response {rollout.number} of {rollout.size}", "bold"
    )
    text.append("".join(f" · {fact}" for fact in _facts(rollout)) + "\n")
    if episode.failure:
        text.append(f"failed: {plain(episode.failure)}\n", "red")
    if episode.expected:
        text.append(f"expected: {plain(episode.expected)}\n")
    for number, trajectory in enumerate(episode.trajectories, 1):
        if trajectory.player:
            text.append(f"{_role(episode, trajectory)}\n", "bold")
        elif len(episode.trajectories) > 1:
            text.append(f"conversation {number} of {len(episode.trajectories)}\n", "bold")
        for part in parts_of(trajectory, decode):
            if part.version is not None:
                text.append(f"[v{part.version}]", "cyan")
            text.append(plain(part.text), "dim" if part.version is None else "")
        text.append("\n")
    return text


def _role(episode: Episode, trajectory: Trajectory) -> str:
    """Return the speaker of a conversation, the speaker's reward, and the moves of the game in it."""
    moves = ", ".join(str(call + 1) for call in trajectory.calls)
    earned = episode.players.get(trajectory.player, 0.0)
    return f"{plain(trajectory.player)}: reward {earned:g}, move{'s' * (len(trajectory.calls) > 1)} {moves}"


def _facts(rollout: Rollout) -> Iterator[str]:
    episode, (oldest, newest) = rollout.episode, rollout.versions
    parts = ", ".join(f"{plain(name)} {value:g}" for name, value in episode.reward_parts.items())
    yield f"reward {episode.reward:g}" + (f" ({parts})" if len(episode.reward_parts) > 1 else "")
    if episode.players:
        yield ", ".join(f"{plain(name)} {reward:g}" for name, reward in episode.players.items())
    yield f"group mean {rollout.mean:g}"
    if episode.env:
        yield plain(episode.env)
    yield f"{episode.sampled:,} tokens"
    yield f"weights {oldest}" if oldest == newest else f"weights {oldest} to {newest}"
    yield f"staleness {rollout.staleness}"
    yield "the agent stopped before the end" if episode.unfinished else _ENDS[episode.finish]


_COLUMNS = ("run", "state", "updates", "reward", "held-out", "environment", "model")
_LEAST = 5
"""Columns that every table contains."""


def list_of(runs: Sequence[RunSummary], width: int) -> list[Table]:
    """Return tables that list runs in ``width`` characters; columns on the right are omitted if necessary."""
    rows = [[plain(cell) for cell in _row(run)] for run in runs]
    for count in range(len(_COLUMNS), _LEAST - 1, -1):
        found = fitted(_COLUMNS[:count], [row[:count] for row in rows], width)
        if len(found) == 1:
            return found
    return fitted(_COLUMNS, rows, width)


def _row(run: RunSummary) -> list[str]:
    if run.error:
        return [run.path.name, "unknown", "", "", "", run.error, ""]
    reward, score = ("" if x is None else f"{x:.3f}" for x in (run.reward, run.accuracy))
    if score and run.scored == 0:
        score += " before training"
    elif score and run.scored != run.step:  # without a label, it is of the weights of the last update
        score += f" after update {run.scored}"
    return [run.path.name, run.state, f"{run.step} of {run.steps}", reward, score, run.env, run.model]
