"""The kernel's counters of a host that hits its own limits, where each version of control groups has them."""

from __future__ import annotations

from pathlib import Path

import pytest

from areal.host_limits import HostCounts, HostLimits

PLACES = {
    "version 2": ("0::/pod/run", "pod/run/memory.events", "pod/pids.events"),
    "version 2 in a container": ("0::/", "memory.events", "pids.events"),
    "both versions": (
        "5:pids:/pod\n4:memory:/pod\n0::/",
        "memory/pod/memory.oom_control",
        "pids/pod/pids.events",
    ),
    "version 1 in a container": (
        "5:pids:/docker/1\n4:memory:/docker/1\n1:cpu,cpuacct:/docker/1",
        "memory/memory.oom_control",
        "pids/pids.events",
    ),
}


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize("place", PLACES)
def test_the_counters_of_our_control_group(tmp_path: Path, place: str):
    groups, memory, threads = PLACES[place]
    cgroups, proc = tmp_path / "cgroup", tmp_path / "proc"
    write(proc / "self/cgroup", f"{groups}\n")
    write(proc / "vmstat", "oom_kill 99\n")  # of the whole host: others' too
    write(cgroups / memory, "oom 5\nunder_oom 0\noom_kill 2\noom_group_kill 1\n")
    write(cgroups / threads, "max 3\n")
    limits = HostLimits(proc, cgroups)
    assert limits.read() == HostCounts(oom_kills=2, threads_refused=3)
    write(cgroups / memory, "oom_kill 4\n")
    assert limits.read().oom_kills == 4


def test_without_control_groups_the_whole_host_counts(tmp_path: Path):
    assert HostLimits(tmp_path, tmp_path).read() == HostCounts(0, 0)
    write(tmp_path / "vmstat", "nr_free_pages 7\noom_kill 6\n")
    assert HostLimits(tmp_path, tmp_path).read() == HostCounts(6, 0)


def test_this_host_has_them():
    assert min(HostLimits().read()) >= 0
