"""An engine on several hosts starts as one worker does, and ends as one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest

from areal.errors import EngineLost, UserError
from areal.rollout.vllm_part import EnginePart
from areal.rollout.vllm_start import EngineSettings, arguments, variables
from areal.runtime.spread_engine import over_hosts
from areal.workers import inline
from areal.workers.handle import Handle, Launch

SETTINGS = EngineSettings(
    *("model", "cpu", "float32", 64, 1, 1.0, (0,)), tensor_parallel=4, hosts=("10.0.0.1", "10.0.0.2")
)


class Part:
    """Stands for the workers of one host."""


class Hosts:
    """Starts parts in this process; at a port that is taken the first one does not start."""

    def __init__(self, taken: int = 0) -> None:
        self.started: list[tuple[str, EngineSettings, Any]] = []
        self.handles: list[Handle[Part]] = []
        self.ports = 0
        self._taken = taken

    def launches(self) -> list[Launch]:
        return [cast(Launch, self._launch)] * 2

    async def _launch(
        self, name: str, environment: Mapping[str, str], factory: Any, settings: EngineSettings
    ) -> Handle[Part]:
        assert environment == variables(settings)
        self.started.append((name, settings, factory))
        if settings.host == 0 and self.ports <= self._taken:
            raise EngineLost("vLLM did not start")
        handle = await inline.launch(name, environment, Part)
        self.handles.append(handle)
        return handle

    def is_free(self, port: int) -> bool:
        """Whether a port is free: the first ones that were chosen are taken when they are looked at again."""
        known = port in {settings.port for _, settings, _ in self.started}
        self.ports += not known
        return not known


async def start(hosts: Hosts) -> Handle[Any]:
    launch: Any = over_hosts(hosts.launches(), ["0,1", "4,5"], hosts.is_free)
    return await launch("engine 0", variables(SETTINGS), Part, SETTINGS)


async def test_the_parts_know_their_hosts_and_one_port():
    hosts = Hosts()
    handle = await start(hosts)
    assert handle.name == "engine 0"
    (_, first, _), (name, second, factory) = hosts.started
    assert (name, factory) == ("engine 0 part 1", EnginePart)
    assert (first.visible_devices, second.visible_devices) == ("0,1", "4,5")
    assert first.port == second.port in range(20_000, 32_000)
    given = [arguments(part) for part in (first, second)]
    assert [(each["nnodes"], each["node_rank"], each["master_addr"]) for each in given] == [
        (2, 0, "10.0.0.1"),
        (2, 1, "10.0.0.1"),
    ]
    assert [variables(part)["VLLM_HOST_IP"] for part in (first, second)] == ["10.0.0.1", "10.0.0.2"]


@pytest.mark.parametrize("which", [0, 1])
async def test_when_one_part_ends_all_do(which: int):
    hosts = Hosts()
    await start(hosts)
    hosts.handles[which].kill()
    async with asyncio.timeout(60):
        await asyncio.gather(*(handle.ended for handle in hosts.handles))


async def test_a_port_that_another_program_took_is_replaced_a_few_times():
    hosts = Hosts(taken=1)
    await start(hosts)
    ports = [settings.port for _, settings, _ in hosts.started]
    assert len(ports) == 4
    assert len(set(ports)) == 2
    with pytest.raises(EngineLost):
        await start(Hosts(taken=3))


async def test_what_fails_for_another_reason_is_not_tried_again():
    hosts = Hosts(taken=9)
    launch: Any = over_hosts(hosts.launches(), ["", ""], lambda port: True)
    with pytest.raises(EngineLost):
        await launch("engine 0", variables(SETTINGS), Part, SETTINGS)
    assert len({settings.port for _, settings, _ in hosts.started}) == 1
    launch = over_hosts(hosts.launches(), ["", ""], lambda port: False)
    with pytest.raises(UserError, match="no port of 20000 to 31999 is free"):
        await launch("engine 0", variables(SETTINGS), Part, SETTINGS)
