"""Starts an engine with workers on several hosts, as if it were one worker."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

from areal.errors import UserError, WorkerLost
from areal.rollout.vllm_part import EnginePart
from areal.rollout.vllm_start import EngineSettings, variables
from areal.workers.handle import Handle, Launch, side_by_side

log = logging.getLogger(__name__)

_PORTS = range(20_000, 32_000)
"""Ports below the range from which Linux assigns ports; a free port there may be taken at any moment."""
_TRIES = 3


def over_hosts(launches: Sequence[Launch], visible: Sequence[str], is_free: Callable[[int], bool]) -> Launch:
    """Return a launcher of an engine with the same number of workers on each of several hosts.

    vLLM itself binds the port at which the workers meet, after a worker has loaded its modules. Another
    program may have taken the port by then; if so, the engine is started again with another port.

    Args:
        launches: launchers of a worker on each host; the first host has the scheduler, and the engine's
            handle represents the worker there.
        visible: CUDA_VISIBLE_DEVICES on each host.
        is_free: returns whether nobody listens at a port of the first host.
    """

    async def launch(
        name: str, environment: Mapping[str, str], factory: Any, settings: EngineSettings
    ) -> Handle[Any]:
        for _ in range(_TRIES - 1):
            port = await asyncio.to_thread(_free_port, is_free)
            try:
                return await _launch(launches, visible, name, factory, replace(settings, port=port))
            except WorkerLost:
                if await asyncio.to_thread(is_free, port):
                    raise
                log.warning("%s: another program took port %d; the engine starts again", name, port)
        port = await asyncio.to_thread(_free_port, is_free)
        return await _launch(launches, visible, name, factory, replace(settings, port=port))

    return cast(Launch, launch)


async def _launch(
    launches: Sequence[Launch], visible: Sequence[str], name: str, factory: Any, settings: EngineSettings
) -> Handle[Any]:
    """Start the workers of all hosts, which end together."""
    starts = []
    for host, (start, shown) in enumerate(zip(launches, visible, strict=True)):
        part = replace(settings, host=host, visible_devices=shown)
        made, named = (EnginePart, f"{name} part {host}") if host else (factory, name)
        starts.append(start(named, variables(part), made, part))
    handles = await side_by_side(*starts)
    for handle in handles:
        handle.ended.add_done_callback(partial(_end_all, handle, handles))
    return handles[0]


def _free_port(is_free: Callable[[int], bool]) -> int:
    for port in random.sample(_PORTS, 100):
        if is_free(port):
            return port
    raise UserError(f"no port of {_PORTS.start} to {_PORTS.stop - 1} is free on the first host of an engine")


def _end_all(ended: Handle[Any], handles: Sequence[Handle[Any]], reason: asyncio.Future[str]) -> None:
    """End the rest of an engine, whose workers wait for those that are gone."""
    if any(not handle.ended.done() for handle in handles) and ended is not handles[0]:
        log.error("%s ended: %s", ended.name, reason.result())
    for handle in handles:
        if not handle.ended.done():
            handle.kill()
