"""Benchmarks: problems from a fixed source, an environment that judges, and sampling settings.

>>> from areal import register_benchmark
>>> from areal.evaluation.benchmark import Benchmark
>>> mine = Benchmark("mine", env="math-v1", source="problems.jsonl", problems=100, prompt="{problem}")
>>> register_benchmark("mine", mine)

and then ``areal eval --benchmark mine``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from areal.errors import UserError

Row = dict[str, Any]

_DATE = re.compile(r"[0-9]{4}(-[0-9]{2}){0,2}")
_ALL = 1_000_000
"""Maximum number of problems of a part; the rows determine the actual number."""
_SHOWN_PARTS = 12
"""Number of parts that an error message lists."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of one revision of a data set on the hub, in a format that areal.envs.rows reads.

    Several files are a tuple of paths, or a pattern such as ``*/test.parquet``; their rows follow one
    another, each with the path of its file in the field ``file``.
    """

    repo: str
    revision: str
    path: str | tuple[str, ...]

    def __str__(self) -> str:
        path = self.path if isinstance(self.path, str) else f"{{{','.join(self.path)}}}"
        return f"hf://datasets/{self.repo}@{self.revision}/{path}"

    @property
    def patterns(self) -> tuple[str, ...]:
        """The paths or patterns of several files; empty for one file."""
        if isinstance(self.path, tuple):
            return self.path
        return (self.path,) if "*" in self.path else ()

    def among(self, folder: Path) -> list[tuple[str, Path]]:
        """Return those of several files that a folder contains, as pairs of path and file, in order."""
        files = ((path.relative_to(folder).as_posix(), path) for path in folder.rglob("*") if path.is_file())
        return sorted(
            (name, path) for name, path in files if any(fnmatchcase(name, known) for known in self.patterns)
        )

    def fetch(self) -> Path:
        """Return the file in the hub's cache, or the folder of several, downloaded if necessary.

        Raises:
            UserError: the download fails.
        """
        from huggingface_hub import hf_hub_download, snapshot_download
        from huggingface_hub.errors import HfHubHTTPError

        # The hub's errors are OSErrors; the other base of one is its HTTP client's, whichever that is.
        errors: tuple[type[BaseException], ...] = (OSError, *HfHubHTTPError.__bases__)
        try:
            if not self.patterns:
                path = str(self.path)
                return Path(hf_hub_download(self.repo, path, revision=self.revision, repo_type="dataset"))
            wanted = [*self.patterns]
            return Path(
                snapshot_download(
                    self.repo, revision=self.revision, repo_type="dataset", allow_patterns=wanted
                )
            )
        except errors as error:
            text = " ".join(str(error).split())[:200]
            raise UserError(
                f"cannot load {self} ({text}); check the network; if the data set has moved, give a folder "
                "or file that has it with --data FOLDER"
            ) from error


@dataclass(frozen=True, slots=True)
class Parts:
    """The part that may follow a benchmark's name, as in ``mmlu@anatomy`` or
    ``livecodebench@2024-10..2025-01``.

    Attributes:
        field: the field of a row that names its part; a range compares it as text.
        source: returns the source of a part, if it does not need all files of the benchmark.
    """

    field: str
    source: Callable[[str], HubFile] | None = None

    def has(self, part: str, row: Row) -> bool:
        """Return whether a row belongs to a part; a range includes its end, even if that is a month."""
        value = str(row[self.field])
        first, several, last = part.partition("..")
        if several or _DATE.fullmatch(part):
            last = last if several else part
            return first <= value and (not last or value[: len(last)] <= last)
        return value == part


@dataclass(frozen=True)
class Benchmark:
    """The definition of ``areal eval --benchmark NAME``; the command line can override each setting.

    Attributes:
        name: name of the benchmark, and of its file in a folder of data: ``NAME.jsonl``,
            ``NAME_test.parquet`` and the like, or a folder ``NAME``.
        env: the environment, which must accept ``data``, ``test_data`` and ``prompt``.
        prompt: a template with ``{problem}``.
        max_new_tokens: maximum length of the response in one turn, in tokens.
        temperature, top_p: sampling parameters.
        keep: selects the rows of the benchmark; None: all rows.
        prepare: converts the selected rows to those that the environment reads; None: no conversion.
        parts: the parts that ``NAME@PART`` can select; None: none.
        part: the part of the benchmark; empty: the whole benchmark.
    """

    name: str
    env: str
    source: HubFile | str
    problems: int
    prompt: str
    max_new_tokens: int = 2048
    samples: int = 1
    temperature: float = 0.6
    top_p: float = 0.95
    env_options: Mapping[str, Any] = field(default_factory=dict)
    agent: str = "single-turn"
    keep: Callable[[Row], bool] | None = None
    prepare: Callable[[Iterable[Row]], Iterator[Row]] | None = None
    parts: Parts | None = None
    part: str = ""

    def at(self, part: str) -> Benchmark:
        """Return a part of the benchmark; raises UserError if it has no parts."""
        if self.parts is None:
            raise UserError(f"benchmark '{self.name}' has no parts; remove '@{part}'")
        source = self.source if self.parts.source is None else self.parts.source(part)
        if isinstance(source, HubFile) and not source.path:
            raise UserError(
                f"benchmark '{self.name}' has no part '{part}', because all of its files are older"
            )
        return replace(self, part=part, source=source, problems=_ALL)

    @property
    def label(self) -> str:
        """The name, followed by the part."""
        return f"{self.name}@{self.part}" if self.part else self.name

    def rows(self, source: Iterable[Row]) -> Iterator[Row]:
        """Yield the rows of the problems, from the rows of the source.

        Raises:
            KeyError: a row lacks a field.
            UserError: the benchmark has no such part.
        """
        rows: Iterable[Row] = filter(self.keep, source) if self.keep else source
        rows = self.prepare(rows) if self.prepare else rows
        if self.parts is None or not self.part:
            yield from rows
            return
        found, known = False, set[str]()
        for row in rows:
            if self.parts.has(self.part, row):
                found = True
                yield row
            known.add(str(row[self.parts.field]))
        if not found:
            names = sorted(known)
            some = ", ".join(names[:_SHOWN_PARTS]) + ("," if len(names) > _SHOWN_PARTS else "")
            raise UserError(
                f"benchmark '{self.name}' has no part '{self.part}' (values of {self.parts.field}: {some})"
            )

    def settings(self, data: Path) -> dict[str, Any]:
        """Return the settings of an evaluation (:class:`areal.config.Config`) on a file of problems."""
        return {
            "env": self.env,
            "env_options": {
                **self.env_options,
                "data": str(data),
                "test_data": str(data),
                "prompt": self.prompt,
            },
            "agent": self.agent,
            "evaluation": {
                "problems": self.problems,
                "samples": self.samples,
                "temperature": self.temperature,
                "top_p": self.top_p,
                "max_new_tokens": self.max_new_tokens,
            },
        }
