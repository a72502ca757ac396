"""What ``areal serve --record`` kept, as the page sees it: each session with its conversations and tokens."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from areal.errors import UserError
from areal.telemetry.plain import plain
from areal.telemetry.run_directory import CONFIG
from areal.viewer.index import Index
from areal.viewer.listing import Listing, Read, excerpt_of, plain_conversation, plain_data, text_of
from areal.viewer.records import DAMAGE, SessionRecords, finish_of, mark_of
from areal.viewer.rollouts import Decode, Rollout, decoder_in, model_of_sessions, session_of


def files_of_sessions(path: Path) -> list[Path]:
    """Return the files of sessions that a path stands for: itself, or those in a folder of nothing else."""
    if path.is_file():
        return [path]
    if (path / CONFIG).is_file():
        return []
    found = sorted(file for file in path.glob("*.jsonl") if file.is_file() and file.stat().st_size)
    try:
        for file in found:
            model_of_sessions(file)
    except UserError:  # an evaluation's, perhaps
        return []
    return found


class WatchedSessions(Listing):
    """The sessions of one file, which may grow.

    Args:
        name: that the page calls it by.
        path: the file.
        cache: folder of its index.

    Raises:
        UserError: it is no such file.
    """

    def __init__(self, name: str, path: Path, cache: Path) -> None:
        self.path = path
        self._model = model_of_sessions(path)
        super().__init__(name, Index(SessionRecords(path), cache))
        self._count = "", 0

    def state(self) -> dict[str, Any]:
        """Return how many sessions there are, of which model, and when the last one ended."""
        stat = self.path.stat()
        if self._count[0] != (mark := mark_of(stat)):
            self._count = mark, self.path.read_bytes().count(b"\n")
        ended = time.strftime("%Y-%m-%d %H:%M", time.localtime(stat.st_mtime))
        facts = {"model": self._model, "sessions": self._count[1], "ended": ended}
        return plain_data({"name": self.name, "path": str(self.path), **facts})

    def settings(self) -> dict[str, str]:
        """Return the model; nothing else is recorded."""
        return {"model": plain(self._model)}

    def reader(self) -> Read:
        """Return what reads sessions."""
        return self._read

    def _read(self, row: dict[str, Any]) -> _Entry:
        try:
            with self.path.open("rb") as file:
                file.seek(row["start"])
                (rollout,) = session_of(file.read(row["length"]), row["group"])
        except (FileNotFoundError, *DAMAGE) as error:
            raise UserError(f"the sessions of {self.name} have changed; try again") from error
        return _Entry(rollout, self)

    def make_decoder(self) -> Decode:
        """Return what makes text of tokens; raises UserError if there is no tokenizer."""
        return decoder_in(self._model)

    def called(self, step: int, group: int, number: int | None) -> str:
        """Return what a session is called."""
        return f"session {group}"


@dataclass(frozen=True, slots=True)
class _Entry:
    """A session, read whole."""

    rollout: Rollout
    watched: WatchedSessions

    def text(self) -> str:
        """Return all that is in its conversations, as one text."""
        return text_of(self.rollout.episode.trajectories, self.watched.decode)

    def excerpt(self) -> str:
        """Return how its last response begins."""
        return excerpt_of(self.rollout.episode.trajectories[-1], self.watched.decode)

    def whole(self) -> dict[str, Any]:
        """Return plain data of all of it."""
        rollout, episode = self.rollout, self.rollout.episode
        facts = {
            "session": str(episode.task.get("session", "")),
            "step": rollout.step,
            "group": rollout.group,
            "number": rollout.number,
            "size": rollout.size,
            "mean": rollout.mean,
            "reward": episode.reward,
            "parts": episode.reward_parts,
            "env": "",
            "task": {},
            "tokens": episode.sampled,
            "finish": finish_of(rollout),
            "failure": "",
            "expected": "",
            "seconds": round(episode.ended - episode.started, 3),
            "latency": {},
        }
        # Of one version, as the weights of an evaluation.
        said = [
            {**plain_conversation(each, self.watched.decode), "versions": None}
            for each in episode.trajectories
        ]
        return {**plain_data(facts), "conversations": said}
