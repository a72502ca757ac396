"""Reads the rows of a data file in any supported form: JSON, CSV, Parquet or Arrow, compressed or not.

The first bytes determine the form; only CSV is distinguished from JSON by its name.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any, cast

from areal.errors import UserError, install_hint

Row = dict[str, Any]

PACKED = (".gz", ".zst", ".bz2", ".xz")
FORMS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")

_PARQUET, _ARROW_FILE, _ARROW_STREAM = b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"
_NO_DATA = {
    b"PK\x03\x04": "a zip archive (or a spreadsheet); unpack it, or save the sheet as CSV",
    b"version https://git-lfs": "a Git LFS pointer instead of the data; run git lfs pull",
    b"\xff\xfe": "UTF-16 text; convert it, for example with iconv -f UTF-16 -t UTF-8",
    b"\xfe\xff": "UTF-16 text; convert it, for example with iconv -f UTF-16 -t UTF-8",
}
_CONVERT = "convert it, for example with iconv -t UTF-8"
_BOM = "\ufeff"
_OPEN = re.compile(r".*[\[{]|\[.*,")
"""A line that ends within an array or an object, such as the first line of a JSON file."""
_AROUND = ("data", "rows", "examples", "problems", "questions")
"""Names under which a file that is one object on one line may contain rows."""
_LONGEST_CELL = 2**30
"""Maximum number of characters of a CSV cell; Python's own limit is 131,072."""


def read_rows(path: Path) -> Iterator[tuple[Row, str]]:
    """Yield each row of a file, with its position for error messages.

    Args:
        path: JSON lines, a JSON array, CSV or TSV with a header, Parquet, or Arrow; also compressed (gzip,
            zstd, bzip2, xz).

    Raises:
        UserError: the file has another form, or is empty.
    """
    empty = True
    try:
        with _unpacked(path) as file:
            for row in _rows(path, file):
                empty = False
                yield row
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
        raise UserError(f"{path} is not a complete {path.suffix.lstrip('.')} file: {error}") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror or error}") from error
    if empty:
        raise UserError(f"{path} is empty; it needs one problem per row")


def form_of(path: Path) -> str | None:
    """Return the one of FORMS that a file's name indicates, compressed or not; None: none of them."""
    name = path.with_suffix("") if path.suffix in PACKED else path
    return name.suffix if name.suffix in FORMS else None


def _unpacked(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        begin = file.read(6)
    if begin.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.open(path))
    if begin.startswith(b"BZh"):
        return bz2.open(path)
    if begin.startswith(b"\xfd7zXZ"):
        return lzma.open(path)
    if begin.startswith(b"\x28\xb5\x2f\xfd"):
        return io.BytesIO(_zstd(path))
    return path.open("rb")


def _zstd(path: Path) -> bytes:
    pyarrow = arrow(path, "is compressed with zstd")
    try:
        with pyarrow.input_stream(str(path), compression="zstd") as stream:
            return stream.read()
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path} is not a complete zst file: {' '.join(str(error).split())}") from error


def arrow(path: Path, what: str) -> Any:
    """Return the module pyarrow; raises UserError if it is not installed."""
    try:
        import pyarrow
    except ModuleNotFoundError as error:
        raise UserError(f"{path} {what}; to read it, run {install_hint('data')}") from error
    return pyarrow


def _rows(path: Path, file: IO[bytes]) -> Iterator[tuple[Row, str]]:
    begin = file.read(64)
    for magic, what in _NO_DATA.items():
        if begin.startswith(magic):
            raise UserError(f"{path} is {what}")
    file.seek(0)
    if begin.startswith(_PARQUET):
        return _table(path, file, "a Parquet file")
    if begin.startswith((_ARROW_FILE, _ARROW_STREAM)):
        return _table(path, file, "an Arrow file")
    if b"\0" in begin:
        raise UserError(f"{path} is not text, or is UTF-16; convert it to UTF-8")
    if form_of(path) in (".parquet", ".arrow") and begin:
        raise UserError(f"{path} is not a complete {'Parquet' if '.parquet' in path.name else 'Arrow'} file")
    return _csv(path, file) if form_of(path) in (".csv", ".tsv") else _json(path, file)


def _table(path: Path, file: IO[bytes], what: str) -> Iterator[tuple[Row, str]]:
    pyarrow = arrow(path, f"is {what}")
    from pyarrow import ipc, parquet

    try:
        if what == "a Parquet file":
            batches: Iterable[Any] = parquet.ParquetFile(file).iter_batches()
        elif file.read(6) == _ARROW_FILE:
            opened = ipc.open_file(file)
            batches = map(opened.get_batch, range(opened.num_record_batches))
        else:
            file.seek(0)
            batches = ipc.open_stream(file)
        rows = (row for batch in batches for row in batch.to_pylist())
        for number, row in enumerate(rows):
            yield row, f"{path}, row {number}"
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(
            f"{path} is not a complete {what[2:].strip()}: {' '.join(str(error).split())}"
        ) from error


def _lines(path: Path, file: IO[bytes]) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not empty, with their numbers from 1; only a line feed ends a line."""
    for number, raw in enumerate(file, start=1):
        try:
            line = raw.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path} is not UTF-8 text: {error.reason} in line {number}; {_CONVERT}"
            ) from error
        line = line.removeprefix(_BOM) if number == 1 else line
        if line:
            yield number, line


def _json(path: Path, file: IO[bytes]) -> Iterator[tuple[Row, str]]:
    lines = _lines(path, file)
    first = next(lines, None)
    if first is None:
        return
    if _whole_object(first[1]):
        second = next(lines, None)
        if second is None and (held := _turned(json.loads(first[1]))) is not None:
            yield from _items(path, held)
            return
        lines = chain([second] if second else [], lines)
    else:
        rest = list(lines)
        text = "\n".join(line for _, line in [first, *rest])
        if (value := _value(text)) is not None:
            yield from _items(path, value)
            return
        if rest and _value(first[1]) is None and _goes_on(first[1], rest[0][1]):
            raise _broken(path, file)
        lines = iter(rest)
    for number, line in chain([first], lines):
        where = f"{path}, line {number}"
        yield _row(_parse(line, where, lines), where), where


def _goes_on(first: str, second: str) -> bool:
    """Return whether the first two lines of a file belong to one JSON value, instead of one each."""
    return _OPEN.fullmatch(first) is not None or not isinstance(_value(second), dict | list)


def _whole_object(line: str) -> bool:
    return isinstance(_value(line), dict)


def _value(text: str) -> Any:
    """Return the JSON value of a text, or the text itself."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _turned(value: Any) -> list[Row] | None:
    """Return the rows of an object: a table by columns, rows by number, or rows under a name."""
    if not isinstance(value, dict) or not value:
        return None
    columns = list(value.values())
    if len(value) > 1 and all(isinstance(column, list) for column in columns):
        if len({len(column) for column in columns}) == 1 and not any(map(is_conversation, columns)):
            return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
        return None
    if all(key.isdigit() for key in value) and _all_rows(columns):
        return columns
    if all(isinstance(column, dict) and column.keys() == columns[0].keys() for column in columns):
        numbers = list(columns[0])
        if numbers and all(number.isdigit() for number in numbers):
            return [{name: column[number] for name, column in value.items()} for number in numbers]
    around = [name for name, held in value.items() if _all_rows(held)]
    return value[around[0]] if len(around) == 1 and around[0] in _AROUND else None


def _items(path: Path, value: Any) -> Iterator[tuple[Row, str]]:
    """Yield the rows of a file that is one JSON value."""
    if (turned := _turned(value)) is not None:
        value = turned
    if isinstance(value, dict):
        lists = [held for held in value.values() if _all_rows(held)]
        others = [held for held in value.values() if isinstance(held, list) and held and not _all_rows(held)]
        # An object around the rows, such as {"data": [...]}; or a single row, such as one with messages.
        if len(lists) == 1 and not others and not is_conversation(lists[0]):
            value = lists[0]
    if isinstance(value, dict) or is_conversation(value):
        value = [value]
    if not isinstance(value, list):
        raise UserError(
            f"{path} contains {json.dumps(value)[:40]} instead of rows; write one JSON object per line"
        )
    for number, item in enumerate(value):
        where = f"{path}, item {number}"
        yield _row(item, where), where


def _all_rows(held: Any) -> bool:
    return isinstance(held, list) and bool(held) and all(isinstance(item, dict) for item in held)


def is_conversation(value: Any) -> bool:
    """Return whether a value is a list of messages, in OpenAI's or ShareGPT's form."""
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(m, dict) and ("role" in m or "from" in m) for m in value)
    )


def _row(value: Any, where: str) -> Row:
    if isinstance(value, dict):
        return value
    if is_conversation(value):  # a row that only consists of messages
        return {"conversations": value}
    raise UserError(f'{where}: not a JSON object; a row looks like {{"problem": "…", …}}')


def _parse(line: str, where: str, later: Iterable[tuple[int, str]]) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        column, why = _fault(error)
        others = sum(_value(text) is None for _, text in later)
        more = f", like {others:,} later line{'s' * (others > 1)}" if others else ""
        what = "them" if others else "the line"
        raise UserError(f"{where}{column}: not valid JSON ({why}){more}; fix or remove {what}") from error


def _broken(path: Path, file: IO[bytes]) -> UserError:
    file.seek(0)
    try:
        json.loads(file.read().decode("utf-8").removeprefix(_BOM))
    except (ValueError, RecursionError) as error:
        column, why = _fault(error)
        return UserError(
            f"{path}, line {getattr(error, 'lineno', 1)}{column}: not valid JSON ({why}); fix it"
        )
    raise AssertionError("it is malformed")


def _fault(error: Exception) -> tuple[str, str]:
    """Return where in its line a text is not JSON, if that is known, and why."""
    if isinstance(error, json.JSONDecodeError):
        return f", column {error.colno}", error.msg
    return "", str(error)


def _csv(path: Path, file: IO[bytes]) -> Iterator[tuple[Row, str]]:
    csv.field_size_limit(_LONGEST_CELL)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        head = text.readline()
        text.seek(0)
        reader = csv.DictReader(text, delimiter=_delimiter(path, head), strict=True)
        names = reader.fieldnames or []
        if len(set(names)) < len(names) or any(not name.strip() for name in names[1:]):
            raise UserError(
                f"{path}, line 1: the header must name each column, without duplicates: {', '.join(names)}"
            )
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if None in row or None in row.values():
                raise UserError(
                    f"{where}: the number of cells differs from the header; put cells that contain commas "
                    "in quotes"
                )
            row.pop("", None)  # row numbers, which data frames write
            yield dict(row), where
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text: {error.reason}; {_CONVERT}") from error
    except csv.Error as error:
        raise UserError(f"{path}, line {reader.line_num}: not valid CSV ({error}); fix it") from error


def _delimiter(path: Path, head: str) -> str:
    if form_of(path) == ".tsv" or ("," not in head and "\t" in head):
        return "\t"
    return ";" if "," not in head and ";" in head else ","
