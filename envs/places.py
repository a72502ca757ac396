"""Places of data: a file, a folder of files, a folder of ``datasets.save_to_disk``, or the Hugging Face hub.

A place is written ``PLACE``, ``PLACE:SPLIT`` or, on the hub, ``OWNER/NAME@REVISION:SPLIT``; a final
``[:1000]`` selects the first 1,000 rows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from areal.envs.rows import FORMS, PACKED, Row, form_of, read_rows
from areal.errors import UserError, install_hint, nearest

Rows = Iterator[tuple[Row, str]]
Splits = dict[str, Callable[[], Rows]]
"""The reader of each split; if no file names a split, the only split is ``""``."""

_PLACE = re.compile(r"(.+?)(?::([\w.-]+))?(?:\[:(\d+)\])?", re.DOTALL)
_SHARD = re.compile(r"(.+)-\d{5}-of-\d{5}")
_WORDS = {
    "train": ("train", "training"),
    "test": ("test", "testing", "eval", "evaluation"),
    "validation": ("validation", "valid", "val", "dev"),
}
"""Words for splits in the names of files and folders, also on the hub."""
_NAMED = re.compile(r"(?<![a-z])(" + "|".join(w for words in _WORDS.values() for w in words) + ")(?![a-z])")
_ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
_HUB = re.compile(
    r"(?:hf://datasets/|https://huggingface\.co/datasets/)?([\w.-]+(?:/[\w.-]+)?)(?:@([\w./-]+))?"
)


def find_splits(data: str, subset: str | None) -> Splits:
    """Return the splits of a place, without reading them.

    Args:
        data: the place; an existing file or folder takes precedence over a split in the name.
        subset: the hub's configuration, or a subfolder.

    Raises:
        UserError: the place, subset or split does not exist.
    """
    name, split, most = cut(data)
    path = Path(name).expanduser()
    if path.is_file():
        found: Splits = {"": partial(read_rows, path)}
    elif path.is_dir():
        found = _in_folder(path, subset)
    elif not looks_remote(name):
        raise UserError(f"the data file {path} does not exist{_beside(path)}")
    else:
        found = _on_hub(name, subset, streaming=most is not None)
    if most is not None:
        found = {each: partial(_first, rows, most) for each, rows in found.items()}
    if split is None:
        return found
    if split not in found:
        raise UserError(f"{name} has no split '{split}'{nearest(split, found)} ({_listed(found)})")
    return {"": found[split]}


def cut(data: str) -> tuple[str, str | None, int | None]:
    """Return the name, the split and the row limit of a place; an existing path is a name as a whole."""
    found = None if Path(data).expanduser().exists() else _PLACE.fullmatch(data)
    if found is None:
        return data, None, None
    return found[1], found[2], None if found[3] is None else int(found[3])


def _first(rows: Callable[[], Rows], count: int) -> Rows:
    return islice(rows(), count)


def is_here(data: str) -> bool:
    """Return whether a place is a file or a folder of this machine."""
    return Path(cut(data)[0]).expanduser().exists()


def absolute(data: str) -> str:
    """Return a place in a form that does not depend on the current folder."""
    name = cut(data)[0]
    return f"{Path(name).expanduser().resolve()}{data[len(name) :]}" if is_here(data) else data


def is_saved(folder: Path) -> bool:
    """Return whether ``save_to_disk`` wrote a folder."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def stamp(*places: str | None) -> tuple[int, ...]:
    """Return numbers that change when a file of these places changes; places on the hub never change."""
    files: list[Path] = []
    for place in filter(None, places):
        path = Path(cut(absolute(place))[0])
        files += sorted(path.rglob("*")) if path.is_dir() and path.is_absolute() else [path]
    found = [path.stat() for path in files if path.is_file()]
    return tuple(number for status in found for number in (status.st_mtime_ns, status.st_size))


def _listed(splits: Splits) -> str:
    return f"it has {', '.join(splits)}" if list(splits) != [""] else "its files do not define any"


def looks_remote(name: str) -> bool:
    """Return whether a name that is not a file may be on the hub."""
    known = Path(name).suffix in (*FORMS, *PACKED)
    return not known and not name.startswith((".", "~", "/")) and _HUB.fullmatch(name) is not None


def _beside(path: Path) -> str:
    """Return the neighboring file that the user may have meant."""
    try:
        return nearest(path.name, [found.name for found in path.parent.iterdir()])
    except OSError:
        return ""


# --- folders ---------------------------------------------------------------------------------------------


def _in_folder(folder: Path, subset: str | None) -> Splits:
    if subset is not None:
        inner = folder / subset
        if not inner.is_dir():
            known = [path.name for path in sorted(folder.iterdir()) if path.is_dir()]
            raise UserError(f"{folder} has no subfolder '{subset}'{nearest(subset, known)}")
        folder = inner
    if (folder / "dataset_dict.json").is_file():
        names = _about(folder / "dataset_dict.json").get("splits", [])
        return {name: partial(_saved, folder / name) for name in names}
    if (folder / "state.json").is_file():
        return {"": partial(_saved, folder)}
    files = [path for path in sorted(folder.rglob("*")) if _is_data(path.relative_to(folder), path)]
    if not files:
        raise UserError(f"{folder} has no data: none of its files ends with {', '.join(FORMS)}")
    grouped: dict[str, list[Path]] = {}
    for path in files:
        grouped.setdefault(_split_of(path.relative_to(folder)), []).append(path)
    if len(grouped) > 1 and "" in grouped:  # each other file is a split with the file's name
        for path in grouped.pop(""):
            grouped.setdefault(path.name.partition(".")[0], []).append(path)
    for split, paths in grouped.items():
        _check_one_set(folder, split, paths)
    return {split: partial(_files, paths) for split, paths in grouped.items()}


def _is_data(inside: Path, path: Path) -> bool:
    hidden = any(part.startswith(".") for part in inside.parts)
    return not hidden and form_of(path) is not None and path.name not in _ABOUT and path.is_file()


def _split_of(inside: Path) -> str:
    """Return the split in the name of a file or of its folder, or an empty string."""
    stem = inside.name.partition(".")[0]
    if shard := _SHARD.fullmatch(stem):
        return shard.group(1)
    for part in (stem, *reversed(inside.parent.parts)):
        if word := _NAMED.search(part.lower()):
            return next(split for split, words in _WORDS.items() if word.group(1) in words)
    return ""


def _check_one_set(folder: Path, split: str, paths: list[Path]) -> None:
    """Raise UserError if files are not parts of one data set."""
    forms = sorted({form_of(path) or "" for path in paths})
    if len(forms) > 1:
        raise UserError(
            f"{folder} has files of several formats ({', '.join(forms)}); give one of them as data"
        )
    tops = sorted({path.relative_to(folder).parts[0] for path in paths if path.parent != folder})
    own = [top for top in tops if top != "data" and not _NAMED.fullmatch(top.lower())]
    if len(own) > 1:
        raise UserError(
            f"{folder} has several data sets; choose one, as in subset={own[0]} ({', '.join(own)})"
        )


def _files(paths: list[Path]) -> Rows:
    return chain.from_iterable(map(read_rows, paths))


def _about(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); save the data set again") from error
    return found if isinstance(found, dict) else {}


def _saved(folder: Path) -> Rows:
    """Read a split that ``save_to_disk`` wrote: Arrow files, in the order of ``state.json``."""
    state = _about(folder / "state.json")
    listed = state.get("_data_files")
    names = [f["filename"] for f in listed if "filename" in f] if isinstance(listed, list) else []
    if not names or state.get("_indices_files") or state.get("_indices_data_files"):
        raise UserError(f"{folder} is not a complete data set of save_to_disk; save it again, or as Parquet")
    return _files([folder / name for name in names])


# --- the hub ---------------------------------------------------------------------------------------------


def _on_hub(name: str, subset: str | None, streaming: bool) -> Splits:
    match = _HUB.fullmatch(name)
    assert match is not None, "a name that looks local is not on the hub"
    id, revision = match.groups()
    try:
        import datasets
    except ModuleNotFoundError as error:
        if error.name != "datasets":
            raise
        raise UserError(
            f"'{name}' is not a file, and reading it from the hub requires `{install_hint('data')}`"
        ) from error
    load: Any = datasets.load_dataset  # according to its types, streaming is one of two constants
    with _hub_errors(name):
        commit = None if revision is None else _commit(id, revision)
        loaded = load(id, subset, revision=commit, streaming=streaming)
    for rows in loaded.values() if commit and not streaming else ():
        kept = re.search("/([0-9a-f]{40})/", rows.cache_files[0]["filename"]) if rows.cache_files else None
        if kept and kept[1] != commit:
            raise UserError(
                f"cannot load the data set '{name}': the hub cannot be reached, and the local cache has "
                "another revision"
            )
    return {split: partial(_hub_rows, name, split, rows) for split, rows in loaded.items()}


@contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    """Turn errors of the hub, its client and ``datasets`` into one line."""
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    # Some errors have no base class except Exception. RuntimeError comes from data sets that are scripts; the
    # hub's errors have the base of their HTTP client's.
    errors: tuple[type[BaseException], ...] = (OSError, ValueError, RuntimeError)
    errors += (datasets.exceptions.DatasetsError, *HfHubHTTPError.__bases__)
    try:
        yield
    except errors as error:
        text = " ".join(str(error).split())[:300]
        hint = "; choose one with subset=…" if "onfig name is missing" in text else ""
        raise UserError(f"cannot load the data set '{name}': {text}{hint}") from error


def _commit(id: str, revision: str) -> str:
    """Return the commit of a branch or tag, because ``datasets`` takes any cached one if the hub fails."""
    if re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    from huggingface_hub import HfApi

    return HfApi().dataset_info(id, revision=revision).sha or revision


def _hub_rows(name: str, split: str, rows: Iterable[Row]) -> Rows:
    listed = enumerate(rows)
    while True:
        with _hub_errors(name):  # with streaming, reading rows accesses the hub
            found = next(listed, None)
        if found is None:
            return
        yield dict(found[1]), f"{name}/{split}, row {found[0]}"
