"""Checkpoints of hosts that do not share the run directory: it is whole, and nothing is left on the hosts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from inventories import host

from areal.config import parse_config
from areal.errors import UserError
from areal.placement.inventory import Inventory
from areal.placement.placement import place
from areal.runtime.gathering import Gathering, gathering_of
from areal.workers.cluster import ClusterHost
from areal.workers.guard import Guard
from areal.workers.handle import Launch


class Folders:
    """Hosts whose file systems are folders of this one; what is on ``shared`` ones is the same as here."""

    def __init__(self, root: Path, shared: str = "") -> None:
        self.hosts = [ClusterHost(name, 2, name) for name in "ab"]
        self._root, self._shared = root, shared

    def at(self, host: str, path: Path) -> Path:
        """Return where a host has what it calls ``path``."""
        return path if host in self._shared else self._root / host / path.relative_to("/")

    def run(self, host: str, function: Callable[..., Any], *args: Any) -> Any:
        return function(
            *(str(self.at(host, Path(a))) if isinstance(a, str) and a[0] == "/" else a for a in args)
        )

    def launch_on(self, host: str, guard: Guard | None = None) -> Launch:
        raise NotImplementedError


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def write(folder: Path, content: dict[str, bytes]) -> None:
    for name, data in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "runs" / "r" / "checkpoints").mkdir(parents=True)
    return tmp_path / "runs" / "r"


def test_who_shares_the_run_directory_is_found_and_the_others_get_folders(run: Path):
    cpus = Inventory((host([], "a"), host([], "b")))
    placement = place(cpus, parse_config({"learner": {"processes": 2}}))
    assert gathering_of(Folders(run.parents[1], "ab"), placement, run, 0.1) is None
    found = gathering_of(Folders(run.parents[1], "a"), placement, run, 0.1)
    assert found is not None
    assert found.hosts == ["b"]
    assert found.notice.startswith(f"b do not share {run}, so areal copies ")
    assert files(run) == {}
    there = Folders(run.parents[1]).at("b", run)
    assert (there / "checkpoints").is_dir()
    (there / "checkpoints").rmdir()
    (there / "checkpoints").write_text("in the way")
    with pytest.raises(UserError, match=rf"^host b cannot write to {there} \(File exists\).*output=FOLDER"):
        gathering_of(Folders(run.parents[1], "a"), placement, run, 0.1)
    only_first = place(cpus, parse_config({}))
    assert gathering_of(Folders(run.parents[1], "a"), only_first, run, 0.1) is None, "b has no rank"


PARTS = {"a": {"learner/__0_0": b"zero" * 2**24, "state.json": b"{}"}, "b": {"learner/__1_0": b""}}


@pytest.mark.parametrize("shared", ["", "a"])
def test_a_checkpoint_is_put_together_here_and_nothing_is_left_there(run: Path, shared: str):
    cluster = Folders(run.parents[1], shared)
    partial = run / "checkpoints" / ".partial-step-000001"
    for name, part in PARTS.items():
        write(cluster.at(name, partial), part)
    with Gathering(cluster, [name for name in "ab" if name not in shared], run).collected(partial, "it"):
        assert files(partial) == PARTS["a"] | PARTS["b"]
        partial.rename(run / "checkpoints" / "step-000001")
    assert not any(files(cluster.at(name, run)) for name in "ab" if name not in shared)
    assert files(run / "checkpoints" / "step-000001") == PARTS["a"] | PARTS["b"]


def test_what_fails_on_its_way_leaves_nothing(run: Path):
    cluster, partial = Folders(run.parents[1], "a"), run / "checkpoints" / ".partial-step-000001"
    for name, part in PARTS.items():
        write(cluster.at(name, partial), part)
    with pytest.raises(UserError, match="damaged"), Gathering(cluster, "b", run).collected(partial, "it"):
        raise UserError("damaged")
    assert files(run) == files(cluster.at("b", run)) == {}


def test_what_is_left_of_a_killed_run_is_removed(run: Path):
    cluster = Folders(run.parents[1])
    names = ["checkpoints/.partial-step-000002/x", ".partial-export-1/model/x"]
    kept = {"checkpoints/step-000001/x": b""}
    for folder in (run, cluster.at("a", run)):
        write(folder, dict.fromkeys(names, b"") | kept)
    Gathering(cluster, "ab", run).clear()
    assert files(run) == files(cluster.at("a", run)) == kept


def test_the_hosts_get_the_learners_part_of_a_checkpoint_until_it_is_loaded(run: Path):
    cluster, saved = Folders(run.parents[1], "a"), run / "checkpoints" / "step-000001"
    write(saved, PARTS["a"])
    gathering = Gathering(cluster, "b", run)
    copy = gathering.send(saved)
    assert files(cluster.at("b", copy)) == {"learner/__0_0": PARTS["a"]["learner/__0_0"]}
    assert not copy.exists()
    gathering.drop(copy)
    assert files(cluster.at("b", run)) == {}


def test_a_folder_that_is_shared_after_all_loses_nothing(run: Path):
    """A host may see it so late that it was taken for one of its own."""
    gathering = Gathering(Folders(run.parents[1], "ab"), "ab", run)
    saved, partial = run / "checkpoints" / "step-000001", run / "checkpoints" / ".partial-step-000002"
    write(saved, PARTS["a"])
    gathering.clear()
    gathering.drop(gathering.send(saved))
    write(partial, PARTS["a"])
    with gathering.collected(partial, "it"):
        partial.rename(run / "checkpoints" / "step-000002")
    made = gathering.make_export()
    write(made, {"model/x": b"x"})
    with gathering.collected(made, "the model"):
        (made / "model").rename(run / "model")
        made.rmdir()
    steps = {f"checkpoints/step-00000{n}/{name}": data for n in (1, 2) for name, data in PARTS["a"].items()}
    assert files(run) == steps | {"model/x": b"x"}
