"""Evaluations for the page, as plain data: their scores, their responses, and how two of them differ."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from areal.errors import UserError
from areal.evaluation.comparison import BenchmarkComparison, compare_files
from areal.evaluation.conversations import CONVERSATIONS, Chat, Conversation, places, read_conversations
from areal.evaluation.report import report_of
from areal.evaluation.responses import Header, Response, read_header, read_response, read_responses
from areal.models import resolve_model
from areal.telemetry.plain import plain
from areal.telemetry.run_directory import CONFIG
from areal.trajectory import Trajectory
from areal.viewer.index import Index
from areal.viewer.inside import inside
from areal.viewer.listing import EXCERPT, Listing, Read, flat_settings, plain_conversation, plain_data
from areal.viewer.records import DAMAGE, EvaluationRecords, mark_of, numbers
from areal.viewer.rollouts import Decode, decoder_in


def is_evaluation(path: Path) -> bool:
    """Return whether a folder is an evaluation: it has files of responses, and is not a run."""
    return os.path.isdir(path) and not (path / CONFIG).is_file() and any(path.glob("*.jsonl"))


def find_evaluations(folder: Path) -> list[Path]:
    """Return the evaluations in the folder ``eval`` of a folder of runs, the newest last."""
    found = [path for path in folder.glob("eval/*") if not path.is_symlink() and is_evaluation(path)]
    return sorted(found, key=lambda path: max(file.stat().st_mtime for file in path.glob("*.jsonl")))


class WatchedEvaluation(Listing):
    """One evaluation.

    Args:
        name: its name on the page.
        path: its folder.
        cache: folder of its index.
    """

    def __init__(self, name: str, path: Path, cache: Path) -> None:
        self.path = path
        self.records = EvaluationRecords(path)
        self.files = {plain(Path(file).stem): number for number, file in enumerate(self.records.names(), 1)}
        super().__init__(name, Index(self.records, cache))
        self._said: dict[int, _Places] = {}
        self._known: dict[int, tuple[str, dict[str, Any]]] = {}
        self._reading = threading.Lock()

    def state(self) -> dict[str, Any]:
        """Return its scores: for each benchmark the results of its report, or why there is none."""
        found = []
        with self._reading:
            for number, mark in self.records.marks().items():
                if number not in self._known or self._known[number][0] != mark:
                    self._known[number] = mark, plain_data(self._benchmark(number))
                found.append(self._known[number][1])
        return {"name": self.name, "path": plain(str(self.path)), "benchmarks": found}

    def _benchmark(self, number: int) -> dict[str, Any]:
        path = self.records.file(number)
        known: dict[str, Any] = {"number": number, "file": path.stem, "name": path.stem, "model": ""}
        try:
            return known | _scores(*read_responses(path))
        except DAMAGE as error:
            return known | {"error": str(error)}

    def header(self, number: int) -> Header:
        """Return the header of the responses to a benchmark; raises UserError if there is none."""
        path = self.records.file(number)
        with path.open(encoding="utf-8", errors="replace") as file:
            return read_header(file.readline(), f"{path}, line 1")

    def settings(self) -> dict[str, str]:
        """Return the settings of each benchmark, as text."""
        found: dict[str, str] = {}
        for file, number in self.files.items():
            try:
                header = asdict(self.header(number))
            except UserError:  # the table of scores shows the error
                continue
            found |= {f"{file}: {name}": value for name, value in flat_settings(header).items()}
        return found

    def reader(self) -> Read:
        """Return a reader of responses."""
        return self._read

    def _read(self, row: dict[str, Any]) -> _Entry:
        path = self.records.file(row["step"])
        kept = inside(self.path, CONVERSATIONS, path.name)
        changed = f"the responses of {self.name} have changed; try again"
        try:
            with path.open("rb") as file:
                file.seek(row["start"])
                response = read_response(file.read(row["length"]).decode(), str(path))
            said = self._conversations(row["step"], kept, response)
        except (FileNotFoundError, *DAMAGE) as error:
            raise UserError(changed) from error
        if (response.problem, response.sample + 1) != (row["group"], row["number"]):
            raise UserError(changed)
        return _Entry(row, response, said, self)

    def _conversations(self, number: int, path: Path, response: Response) -> list[Conversation]:
        """Return the conversations of a response, if a file contains them."""
        with self._reading:
            place = self._said.setdefault(number, _Places(path)).of(response.problem, response.sample)
        if place is None:
            return []
        with path.open("rb") as file:
            file.seek(place[0])
            return read_conversations(file.read(place[1]))

    def make_decoder(self) -> Decode:
        """Return a function that converts tokens to text; raises UserError if there is no tokenizer."""
        return decoder_in(resolve_model(self.header(1).model))

    def called(self, step: int, group: int, number: int | None) -> str:
        """Return the name of a problem, or of one response to it."""
        which = f"problem {group}" if number is None else f"response {number} to problem {group}"
        return f"{which} of benchmark {step}"

    def prompts(self, step: int, problems: Sequence[int]) -> dict[int, dict[str, Any] | None]:
        """Return the start of the first conversation on each problem; None: it was not saved."""
        self.index.update(0, (step, step))
        found: dict[int, dict[str, Any] | None] = {}
        for problem in problems:
            rows = self.index.group(step, problem)[:1]
            found[problem] = self._read(rows[0]).prompt() if rows else None
        return found


def _scores(header: Header, responses: list[Response]) -> dict[str, Any]:
    """Return the data of a benchmark: its scores, or the number of responses so far."""
    wanted = header.problems * header.samples
    found = {
        "name": header.name,
        "model": header.model,
        "env": header.env,
        "responses": len(responses),
        "wanted": wanted,
    }
    if len(responses) < wanted:
        return found
    report = report_of(header, responses, seconds=0.0)
    return found | {
        "problems": report.problems,
        "of": report.of,
        "samples": report.samples,
        "accuracy": report.accuracy,
        "interval": report.interval,
        "passes": {k: [value, *interval] for k, (value, interval) in report.passes.items() if k > 1},
        "parts": report.parts,
        "members": {name: [value, *interval] for name, (value, interval) in report.by_member.items()},
        "length": report.mean_length,
        "truncated": report.truncated,
        "failed": report.failed,
    }


class _Places:
    """The places of the responses' conversations in their file; each time, only new lines are read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._inode, self._end = -1, 0
        self._places: dict[tuple[int, int], tuple[int, int]] = {}

    def of(self, problem: int, sample: int) -> tuple[int, int] | None:
        """Return start and length of a response's last line; None: there is none."""
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return None
        if stat.st_ino != self._inode or stat.st_size < self._end:
            self._inode, self._end, self._places = stat.st_ino, 0, {}
        if stat.st_size > self._end:
            for own, number, begin, length in places(self._path, self._end):
                self._places[own, number] = begin, length
                self._end = begin + length
        return self._places.get((problem, sample))


@dataclass(frozen=True, slots=True)
class _Entry:
    """A response with all its data."""

    row: dict[str, Any]
    response: Response
    said: list[Conversation]
    watched: WatchedEvaluation

    def text(self) -> str:
        """Return the text of all its conversations or, without them, of the agent's actions."""
        parts = list(map(str, self.response.actions))
        for conversation in self.said:
            if isinstance(conversation, Trajectory):
                parts.append(self.watched.decode(conversation.tokens.tolist()))
            else:
                parts += [_content(message) for message in conversation.messages]
        return plain("\n".join(parts))

    def excerpt(self) -> str:
        """Return the beginning of its agent's last action."""
        return plain(str(self.response.actions[-1]))[:EXCERPT] if self.response.actions else ""

    def prompt(self) -> dict[str, Any] | None:
        """Return the start of its first conversation, up to the first response; None: it was not saved."""
        if not self.said:
            return None
        first = self.said[0]
        if isinstance(first, Trajectory):
            end = first.turns[0] if first.turns else int(first.loss_mask.argmax())
            begun = Trajectory(
                first.tokens[:end], first.loss_mask[:end], first.logprobs[:end], first.versions[:end]
            )
            return plain_conversation(begun, self.watched.decode)
        return _plain_chat(Chat(first.messages[: first.given], first.given))

    def whole(self) -> dict[str, Any]:
        """Return all its data as plain data."""
        response = self.response
        facts = {
            **{name: self.row[name] for name in ("step", "group", "number", "size", "mean")},
            "benchmark": self.watched.records.file(self.row["step"]).stem,
            "reward": float(response.reward),
            "parts": numbers(response.parts),
            "env": response.env,
            "task": response.task,
            "tokens": response.tokens,
            "finish": response.finish,
            "failure": response.failure,
            "expected": response.expected,
            "seconds": round(float(response.seconds), 3),
            "latency": {},
            "actions": response.actions,
        }
        note = (
            ""
            if self.said
            else "The conversation of this response was not recorded. These are the actions of its agent."
        )
        try:
            said = [self._conversation(each) for each in self.said]
        except UserError as error:  # the tokenizer is no longer available
            said, note = [], f"The tokens cannot be read: {error}. These are the actions of the agent."
        return {**plain_data({**facts, "note": note}), "conversations": said}

    def _conversation(self, said: Conversation) -> dict[str, Any]:
        if isinstance(said, Chat):
            return _plain_chat(said)
        # The weights of an evaluation have one version, so versions are not shown.
        return {**plain_conversation(said, self.watched.decode), "versions": None}


def _content(message: dict[str, Any]) -> str:
    """Return the text of a chat message, and its tool calls."""
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(str(part.get("text", part)) for part in content if isinstance(part, dict))
    calls = [str(call.get("function", call)) for call in message.get("tool_calls") or ()]
    return "\n".join([*([str(content)] if content else []), *calls])


def _plain_chat(chat: Chat) -> dict[str, Any]:
    messages = [
        {"role": plain(str(message.get("role", ""))), "text": plain(_content(message))}
        for message in chat.messages
    ]
    player = {"player": plain(chat.player)} if chat.player else {}
    return {"messages": messages, "given": chat.given, **player}


class Comparisons:
    """Compares pairs of evaluations; results are cached until the files change."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, Path], tuple[tuple[str, str], BenchmarkComparison]] = {}
        self._computing = threading.Lock()

    def compare(self, a: WatchedEvaluation, b: WatchedEvaluation, benchmark: str) -> dict[str, Any]:
        """Return how the second evaluation differs from the first.

        Returns:
            The data of :meth:`BenchmarkComparison.to_json`, and ``numbers``: the index of the benchmark in
            each.

        Raises:
            UserError: one of them lacks the benchmark or is not finished, or their problems differ.
        """
        for each in (a, b):
            if benchmark not in each.files:
                raise UserError(f"{each.name} has no benchmark {benchmark}")
        pair = a.records.file(a.files[benchmark]), b.records.file(b.files[benchmark])
        marks = mark_of(pair[0].stat()), mark_of(pair[1].stat())
        with self._computing:
            if pair not in self._known or self._known[pair][0] != marks:
                self._known[pair] = marks, compare_files(*pair)
            found = self._known[pair][1]
        return plain_data({**found.to_json(), "numbers": (a.files[benchmark], b.files[benchmark])})
