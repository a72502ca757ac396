"""Responses to problems, and the file that stores them.

The file is JSONL. Its first line is the header: what was evaluated, on which data, and how it was sampled.
Every further line is a response, which is written as soon as it is complete, so that a killed evaluation can
resume from its file. An incomplete last line is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from areal.disk import one_line, write_whole
from areal.errors import UserError
from areal.evaluation.conversations import Conversation, conversations_path, write_conversations
from areal.thoughts import Thought

FORMAT = 1
"""Version of the file format; readers refuse other versions."""
FAILED = "failed"
"""The finish of a response whose agent or program failed, which counts as wrong."""


@dataclass(frozen=True, slots=True)
class Response:
    """One response to a problem.

    Attributes:
        problem: its number in the evaluation, from 0.
        sample: the response's number among those to the problem, from 0.
        task: keyword arguments of ``env.reset`` that name the problem.
        actions: the actions of the agent in the environment, in order, from which the environment can judge
            it again.
        parts: named components of the reward, which sum to it.
        finish: how the last generation ended; ``too_long``: the problem left no room for a response;
            ``failed``: the agent, or its program, failed.
        seconds: from the reset to the last reward.
        env: the environment of a mixture to which the problem belongs; empty outside of mixtures.
        failure: the failure of the agent or its program; empty if there was none.
        expected: the correct answer, if the environment provides it.
        thoughts: for each turn whose prompt and chat template have thoughts.
    """

    problem: int
    sample: int
    task: dict[str, Any]
    actions: list[str]
    reward: float
    parts: dict[str, float]
    finish: str
    tokens: int
    seconds: float = 0.0
    env: str = ""
    failure: str = ""
    expected: str = ""
    thoughts: list[Thought] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a file of responses: the problems, and how the responses were produced.

    Attributes:
        name: name of the benchmark or of the environment.
        env, env_options, agent, agent_options: what judges the responses, and how the model acted.
        model: as the user named it.
        problems: number of problems; ``of``: total number of problems, if known.
        sampling: temperature, lengths and other parameters.
        chat: how the conversations began, if the settings determine that.
        source: source of the data; ``data``: digest of its rows.
    """

    name: str
    env: str
    env_options: dict[str, Any]
    agent: str
    agent_options: dict[str, Any]
    model: str
    problems: int
    samples: int
    seed: int
    sampling: dict[str, Any]
    source: str = ""
    data: str = ""
    of: int | None = None
    chat: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT


class ResponseFile:
    """A file of responses, open for writing.

    Args:
        path: path of the file; a new file begins with the header, and an existing one with the same header is
            continued.

    Raises:
        UserError: the existing file has another header.
    """

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.responses: list[Response] = []
        if path.exists():
            found, self.responses = read_responses(path)
            if found != header:
                raise UserError(
                    f"{path} {_what_differs(found, header)}; choose another name for this evaluation"
                )
        write_responses(path, header, self.responses)  # without an incomplete last line

    def write(self, response: Response, said: Sequence[Conversation] = ()) -> None:
        """Add a response and the conversations of its episode; both are written when this returns.

        Raises:
            UserError: it cannot be written.
        """
        if said:  # before the response: if writing stops in between, the response has its conversations
            write_conversations(conversations_path(self.path), response.problem, response.sample, said)
        # An open file would accept the line even if the folder is gone.
        with one_line(self.path.parent), self.path.open("a", encoding="utf-8") as file:
            file.write(_line(response))
        self.responses.append(response)

    def sorted(self) -> list[Response]:
        """Return all responses, by problem and sample."""
        return sorted(self.responses, key=lambda r: (r.problem, r.sample))


def read_responses(path: Path) -> tuple[Header, list[Response]]:
    """Return the header of a file and its complete responses, by problem and sample.

    Raises:
        UserError: it is not a file of responses, or is damaged before its last line.
    """
    try:
        *lines, _ = path.read_text(encoding="utf-8").split(
            "\n"
        )  # an incomplete line may follow the last newline
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    if not lines:
        raise UserError(f"{path} has no complete line; its first line should be the header of an evaluation")
    header = read_header(lines[0], f"{path}, line 1")
    responses = [read_response(line, f"{path}, line {n}") for n, line in enumerate(lines[1:], start=2)]
    return header, sorted(responses, key=lambda r: (r.problem, r.sample))


def read_response(line: str, where: str) -> Response:
    """Return the response in a line; raises UserError, which names ``where`` it is, if the line has none."""
    found: Response = _parse(Response, line, where)
    return replace(found, thoughts=[Thought(*values) for values in found.thoughts])


def read_header(line: str, where: str) -> Header:
    """Return the header in a first line; raises UserError, which names ``where`` it is, if it is invalid."""
    found: Header = _parse(Header, line, where)
    if found.format != FORMAT:
        raise UserError(
            f"{where}: the format is {found.format}, and this version of areal reads format {FORMAT}; use "
            "the version that wrote it"
        )
    return found


def write_responses(path: Path, header: Header, responses: Iterable[Response]) -> None:
    """Write a whole file, which replaces an existing one."""
    with one_line(path.parent):
        write_whole(path, [_line(header), *map(_line, responses)])


def _line(row: Header | Response) -> str:
    return json.dumps(asdict(row)) + "\n"


def _parse(kind: type[Any], line: str, where: str) -> Any:
    try:
        data = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not valid JSON ({error})") from error
    known = fields(kind)
    needed = {f.name for f in known if f.default is MISSING and f.default_factory is MISSING}
    if not isinstance(data, dict) or needed - data.keys():
        raise UserError(
            f"{where}: this is not a {kind.__name__.lower()} of an evaluation; give the folder that `areal "
            "eval --name` writes, or a file of responses in it"
        )
    return kind(**{f.name: data[f.name] for f in known if f.name in data})


def _what_differs(found: Header, wanted: Header) -> str:
    for item in fields(Header):
        old, new = getattr(found, item.name), getattr(wanted, item.name)
        if old != new:
            return f"has responses with {item.name}={old!r} instead of {new!r}"
    raise AssertionError("the headers are equal")
