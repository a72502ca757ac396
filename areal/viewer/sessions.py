"""The sessions from ``areal serve --record`` for the page, with their conversations and tokens."""

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
    """Return the session files of a path: the path itself, or the files of a folder without others."""
    if path.is_file():
        return [path]
    if (path / CONFIG).is_file():
        return []
    found = sorted(file for file in path.glob("*.jsonl") if file.is_file() and file.stat().st_size)
    try:
        for file in found:
            model_of_sessions(file)
    except UserError:  # it may belong to an evaluation
        return []
    return found


class WatchedSessions(Listing):
    """The sessions of one file, which may grow.

    Args:
        name: its name on the page.
        path: path of the file.
        cache: folder of its index.

    Raises:
        UserError: it is not such a file.
    """

    def __init__(self, name: str, path: Path, cache: Path) -> None:
        self.path = path
        self._model = model_of_sessions(path)
        super().__init__(name, Index(SessionRecords(path), cache))
        self._count = "", 0

    def state(self) -> dict[str, Any]:
        """Return the number of sessions, their model, and the end of the last one."""
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
        """Return a reader of sessions."""
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
        """Return a function that converts tokens to text; raises UserError if there is no tokenizer."""
        return decoder_in(self._model)

    def called(self, step: int, group: int, number: int | None) -> str:
        """Return the name of a session."""
        return f"session {group}"


@dataclass(frozen=True, slots=True)
class _Entry:
    """A session with all its data."""

    rollout: Rollout
    watched: WatchedSessions

    def text(self) -> str:
        """Return the text of all its conversations."""
        return text_of(self.rollout.episode.trajectories, self.watched.decode)

    def excerpt(self) -> str:
        """Return the beginning of its last response."""
        return excerpt_of(self.rollout.episode.trajectories[-1], self.watched.decode)

    def whole(self) -> dict[str, Any]:
        """Return all its data as plain data."""
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
        # The weights have one version, as in an evaluation.
        said = [
            {**plain_conversation(each, self.watched.decode), "versions": None}
            for each in episode.trajectories
        ]
        return {**plain_data(facts), "conversations": said}
