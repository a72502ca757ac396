"""Finds the problems of a benchmark: in the user's file, or at the benchmark's own source."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from areal.disk import write_whole
from areal.envs.data import held_out_rows
from areal.envs.places import absolute, cut, is_here, is_saved, looks_remote
from areal.envs.rows import FORMS, PACKED, form_of, read_rows
from areal.errors import UserError
from areal.evaluation.benchmark import Benchmark, HubFile, Row
from areal.registry import benchmarks
from areal.telemetry.run_directory import slug


@dataclass(frozen=True, slots=True)
class BenchmarkData:
    """The problems of a benchmark as a file.

    Attributes:
        path: a ``.jsonl`` or ``.jsonl.gz`` file.
        source: the source of the problems, for the report.
        digest: SHA-256 of the rows, independent of their text form.
    """

    path: Path
    source: str
    digest: str


def find_data(benchmark: Benchmark, given: str | Path | None, folder: Path) -> BenchmarkData:
    """Return the data of a benchmark.

    Args:
        given: a place (areal.envs.places), or a folder with a place of the benchmark's name; None: the
            benchmark's own source.
        folder: where to write a file if the source's own file has another form or contains other rows.

    Raises:
        UserError: the data is not available, or has no problems.
    """
    source = benchmark.source if given is None else _given(benchmark, str(given))
    place = str(source.fetch() if isinstance(source, HubFile) else absolute(source))
    path = Path(place)
    if not is_here(place) and not looks_remote(cut(place)[0]):
        raise UserError(f"benchmark '{benchmark.name}': the data file {place} does not exist")
    as_it_is = not (benchmark.keep or benchmark.prepare or benchmark.part)
    if path.is_file() and as_it_is and form_of(path) in (".jsonl", None):
        return BenchmarkData(path, str(source), digest_of(path))
    try:
        lines = [_canonical(row) for row in benchmark.rows(_rows(benchmark, place))]
    except KeyError as error:
        raise UserError(f"benchmark '{benchmark.name}': a row of {place} has no field {error}") from error
    if not lines:
        raise UserError(
            f"benchmark '{benchmark.name}': {place} has none of its problems; give another file with --data"
        )
    path = folder / f"{slug(benchmark.label)}.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(path, lines)
    return BenchmarkData(path, str(source), digest_of(path))


def find_benchmark(name: str) -> Benchmark:
    """Return a benchmark, or with ``NAME@PART`` a part of one; raises UserError if it does not exist."""
    name, at, part = name.partition("@")
    found = benchmarks.get(name)
    return found.at(part) if at else found


def _rows(benchmark: Benchmark, place: str) -> Iterator[Row]:
    """Yield the rows of a place; if it has several files, each row names its file."""
    source, folder = benchmark.source, Path(place)
    if not (isinstance(source, HubFile) and source.patterns and folder.is_dir() and not is_saved(folder)):
        yield from (row for row, _ in held_out_rows(place))
        return
    files = source.among(folder)
    if not files:
        wanted = ", ".join(source.patterns)
        raise UserError(f"benchmark '{benchmark.name}': {place} has none of its files: {wanted}")
    for name, path in files:
        yield from ({"file": name, **row} for row, _ in read_rows(path))


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file's rows, independent of their text form.

    Raises:
        UserError: the file does not exist or is not a file of rows.
    """
    if not path.is_file():
        raise UserError(f"the data file {path} does not exist")
    digest = hashlib.sha256()
    for row, _ in read_rows(path):
        digest.update(_canonical(row).encode())
    return digest.hexdigest()


def _canonical(row: Row) -> str:
    return json.dumps(row, sort_keys=True, default=str) + "\n"  # Parquet also has dates


def _given(benchmark: Benchmark, given: str) -> str:
    """Return the place that ``--data`` means for a benchmark."""
    folder = Path(given).expanduser()
    if not folder.is_dir() or is_saved(folder):
        if not is_here(given) and not looks_remote(cut(given)[0]):
            raise UserError(f"--data {given}: the file or folder does not exist")
        return absolute(given)
    names = [f"{benchmark.name}{kind}" for kind in ("", "_test")]
    by_name = {path.name.lower(): path for path in sorted(folder.iterdir())}
    for name in names:
        for end in ("", *FORMS, *(form + packed for form in FORMS for packed in PACKED)):
            if name + end in by_name:
                return str(by_name[name + end].resolve())
    raise UserError(
        f"--data {given} has no file for benchmark '{benchmark.name}'; it needs {names[0]}.jsonl or "
        f"{names[1]}.jsonl (or, with one of these names, {', '.join(FORMS[1:])})"
    )
