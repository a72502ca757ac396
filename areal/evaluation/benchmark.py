"""A benchmark: problems from an exact source, an environment that asks and judges, and a way to sample.

>>> from areal import register_benchmark
>>> from areal.evaluation.benchmark import Benchmark
>>> mine = Benchmark("mine", env="math-v1", source="problems.jsonl", problems=100, prompt="{problem}")
>>> register_benchmark("mine", mine)

and then ``areal eval --benchmark mine``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from areal.envs.data import held_out_rows
from areal.envs.places import absolute, is_saved, looks_remote
from areal.envs.rows import FORMS, PACKED, form_of, read_rows
from areal.errors import UserError
from areal.evaluation.responses import write_whole

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of one revision of a data set on the Hugging Face hub, ``.jsonl`` or ``.parquet``."""

    repo: str
    revision: str
    path: str

    def __str__(self) -> str:
        return f"hf://datasets/{self.repo}@{self.revision}/{self.path}"

    def fetch(self) -> Path:
        """Return the file in the hub's cache, downloaded if it is not there.

        Raises:
            UserError: it cannot be had.
        """
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import HfHubHTTPError

        # The hub's errors are OSErrors; the other base of one is its HTTP client's, whichever that is.
        errors: tuple[type[BaseException], ...] = (OSError, *HfHubHTTPError.__bases__)
        try:
            return Path(hf_hub_download(self.repo, self.path, revision=self.revision, repo_type="dataset"))
        except errors as error:
            text = " ".join(str(error).split())[:200]
            raise UserError(
                f"cannot load {self} ({text}); if the network is not to blame, the data set has moved: give "
                "a folder or file that has it with --data FOLDER"
            ) from error


@dataclass(frozen=True)
class Benchmark:
    """What ``areal eval --benchmark NAME`` does; every part of it can be set on the command line.

    Attributes:
        name: also of the file in a folder of data: ``NAME.jsonl``, ``NAME_test.parquet`` and the like, or a
            folder ``NAME``.
        env: the environment; it takes ``data``, ``test_data`` and ``prompt``.
        source: the data.
        problems: how many it has.
        prompt: a template with ``{problem}``.
        max_new_tokens: longest response of one turn.
        samples: responses to each problem.
        temperature, top_p: of the sampling.
        env_options: of the environment, besides.
        agent: how the model acts.
        keep: which rows of the file are the benchmark's; None: all.
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


@dataclass(frozen=True, slots=True)
class Data:
    """The problems of a benchmark as a file.

    Attributes:
        path: ``.jsonl`` or ``.jsonl.gz``.
        source: where it is from, for the report.
        digest: SHA-256 of its rows, whatever their form as text.
    """

    path: Path
    source: str
    digest: str


def find_data(benchmark: Benchmark, given: str | Path | None, folder: Path) -> Data:
    """Return the data of a benchmark.

    Args:
        benchmark: of which.
        given: a place (areal.envs.places), or a folder that has one of the benchmark's name; None: its own
            source.
        folder: where a file is written, if the source's own is in another form or has other rows, too.

    Raises:
        UserError: it cannot be had, or has no problem.
    """
    source = benchmark.source if given is None else _given(benchmark, str(given))
    place = str(source.fetch() if isinstance(source, HubFile) else absolute(source))
    path = Path(place)
    if not _there(place) and not looks_remote(place):
        raise UserError(f"benchmark '{benchmark.name}': the data file {place} does not exist")
    if path.is_file() and benchmark.keep is None and form_of(path) in (".jsonl", None):
        return Data(path, str(source), digest_of(path))
    keep = benchmark.keep or (lambda row: True)
    try:
        lines = [_canonical(row) for row, _ in held_out_rows(place) if keep(row)]
    except KeyError as error:
        raise UserError(f"benchmark '{benchmark.name}': a row of {place} has no field {error}") from error
    if not lines:
        raise UserError(f"benchmark '{benchmark.name}': {place} has none of its problems")
    path = folder / f"{benchmark.name}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, "".join(lines))
    return Data(path, str(source), digest_of(path))


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's rows, whatever their form as text.

    Raises:
        UserError: it is not there, or no such file.
    """
    if not path.is_file():
        raise UserError(f"the data file {path} does not exist")
    digest = hashlib.sha256()
    for row, _ in read_rows(path):
        digest.update(_canonical(row).encode())
    return digest.hexdigest()


def _canonical(row: Row) -> str:
    return json.dumps(row, sort_keys=True, default=str) + "\n"  # Parquet knows dates, too


def _given(benchmark: Benchmark, given: str) -> str:
    """Return the place that ``--data`` means for a benchmark."""
    folder = Path(given).expanduser()
    if not folder.is_dir() or is_saved(folder):
        if not _there(given) and not looks_remote(given):
            raise UserError(f"--data {given}: no such file or folder")
        return absolute(given)
    names = [f"{benchmark.name}{kind}" for kind in ("", "_test")]
    by_name = {path.name.lower(): path for path in sorted(folder.iterdir())}
    for name in names:
        for end in ("", *FORMS, *(form + packed for form in FORMS for packed in PACKED)):
            if name + end in by_name:
                return str(by_name[name + end].resolve())
    raise UserError(
        f"--data {given} has no file for benchmark '{benchmark.name}': none of {names[0]}.jsonl, "
        f"{names[1]}.jsonl and the like (also {', '.join(FORMS[1:])})"
    )


def _there(place: str) -> bool:
    return any(Path(path).expanduser().exists() for path in (place, place.rpartition(":")[0]) if path)
