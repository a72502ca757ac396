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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from areal.envs.data import read_rows
from areal.errors import UserError, install_hint
from areal.evaluation.answers import write_whole

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
        name: also of the file in a folder of data: ``NAME.jsonl``, ``NAME_test.jsonl``, or with the end
            ``.jsonl.gz`` or ``.parquet``.
        env: the environment; it takes ``data``, ``test_data`` and ``prompt``.
        source: the data.
        problems: how many it has.
        prompt: a template with ``{problem}``.
        max_new_tokens: longest answer of one turn.
        samples: answers to each problem.
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


def find_data(benchmark: Benchmark, given: Path | None, folder: Path) -> Data:
    """Return the data of a benchmark.

    Args:
        benchmark: of which.
        given: a file, or a folder with a file of its name; None: the benchmark's own source.
        folder: where a file is written, if the source's own is in another form or has other rows, too.

    Raises:
        UserError: it cannot be had, or has no problem.
    """
    source = _given_file(benchmark, given) if given is not None else benchmark.source
    path = source.fetch() if isinstance(source, HubFile) else Path(source).expanduser().resolve()
    if not path.is_file():
        raise UserError(f"benchmark '{benchmark.name}': the data file {path} does not exist")
    if path.suffix != ".parquet" and benchmark.keep is None:
        return Data(path, str(source), digest_of(path))
    keep = benchmark.keep or (lambda row: True)
    try:
        lines = [_canonical(row) for row in _rows(path) if keep(row)]
    except KeyError as error:
        raise UserError(f"benchmark '{benchmark.name}': a row of {path} has no field {error}") from error
    if not lines:
        raise UserError(f"benchmark '{benchmark.name}': {path} has none of its problems")
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
    for row in _rows(path):
        digest.update(_canonical(row).encode())
    return digest.hexdigest()


def _canonical(row: Row) -> str:
    return json.dumps(row, sort_keys=True, default=str) + "\n"  # Parquet knows dates, too


def _given_file(benchmark: Benchmark, given: Path) -> str:
    given = given.expanduser()
    if given.is_file():
        return str(given.resolve())
    if not given.is_dir():
        raise UserError(f"--data {given}: no such file or folder")
    ends = (".jsonl", ".jsonl.gz", ".parquet")
    names = [f"{benchmark.name}{kind}{end}" for kind in ("", "_test") for end in ends]
    by_name = {path.name.lower(): path for path in sorted(given.iterdir())}
    for name in names:
        if name in by_name:
            return str(by_name[name].resolve())
    raise UserError(
        f"--data {given} has no file for benchmark '{benchmark.name}': none of {', '.join(names)}"
    )


def _rows(path: Path) -> Iterator[Row]:
    if path.suffix != ".parquet":
        yield from (row for row, _ in read_rows(path))
        return
    try:
        from pyarrow import ArrowInvalid, parquet
    except ModuleNotFoundError as error:
        raise UserError(f"{path.name} is a Parquet file: to read it, {install_hint('data')}") from error
    try:
        rows = parquet.read_table(path).to_pylist()
    except ArrowInvalid as error:
        raise UserError(f"{path} is no whole Parquet file: {' '.join(str(error).split())}") from error
    yield from rows
