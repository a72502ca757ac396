"""A process with a worker that has processes of each kind below it."""

from __future__ import annotations

import asyncio

from areal.rewards.math import shared_verifier
from areal.sandbox.interface import Calls, Job, SandboxLimits
from areal.sandbox.local import local_sandbox
from areal.workers import process

EACH = 8
"""Processes of a worker: its own, two keepers and zygotes, a session, a run and a math worker."""


class Owner:
    """A worker, as of rollouts; the one below it is as of an environment."""

    async def own(self, further: int) -> None:
        self.pool = local_sandbox(2, allow_weak=True)
        self.session = await self.pool.session()
        await self.session.run("x = 1")
        endless = self.pool.run(Job("while True: pass", Calls(())), SandboxLimits(wall_s=600, cpu_s=600))
        self.run = asyncio.create_task(endless)
        assert await asyncio.to_thread(shared_verifier().equivalent, r"\max(2, 5)", "5")
        if further:
            self.below = await process.launch("another owner", {}, Owner)
            await self.below.call(Owner.own, further - 1)


async def main() -> None:
    """Print the worker's number when all are there."""
    worker = await process.launch("owner", {}, Owner)
    await worker.call(Owner.own, 1)
    print(worker.pid, flush=True)
    await asyncio.sleep(600)
