"""Starts an engine whose workers are on several hosts, as if it were one worker."""

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
"""Below those that Linux gives out by itself, where one that is free now may be taken in the next moment."""
_TRIES = 3


def over_hosts(launches: Sequence[Launch], visible: Sequence[str], is_free: Callable[[int], bool]) -> Launch:
    """Return what starts an engine with as many workers on each of several hosts.

    vLLM itself binds the port at which the workers meet, once a worker has loaded its modules. Another
    program may have taken it by then: where that is so after a start that failed, the engine is started
    again at another port.

    Args:
        launches: what starts a worker on each host; the first host has the scheduler, and the engine's handle
            stands for the worker there.
        visible: what CUDA_VISIBLE_DEVICES shows on each.
        is_free: whether nobody listens at a port of the first host.
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
    """End what is left of an engine: its workers wait for those that are gone."""
    if any(not handle.ended.done() for handle in handles) and ended is not handles[0]:
        log.error("%s ended: %s", ended.name, reason.result())
    for handle in handles:
        if not handle.ended.done():
            handle.kill()
