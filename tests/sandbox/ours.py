"""The corpus against our own verifiers. Also a script, to run it as another user."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from areal.rewards.cases import AssertTests, CallCase, CallTests, CheckTests, StreamCase, StreamTests, Tests
from areal.rewards.code import CodeVerifier
from areal.sandbox.interface import Call, Calls, Job, Returned, SandboxLimits
from areal.sandbox.local import local_sandbox
from areal.sandbox.pool import Pool

if TYPE_CHECKING:
    from attacks import Attack

WALL_S = 0.6
LANES = 3
LIMITS = SandboxLimits(wall_s=WALL_S, memory_mb=512)
CASES = ((3, 9), (7, 49), (12, 144))
HONEST = "def f(x): return x * x"
HONEST_PROGRAM = "print(int(input()) ** 2)"
FORMS: dict[str, Tests] = {
    "calls": CallTests(tuple(CallCase(Call("f", (x,)), y) for x, y in CASES)),
    "asserts": AssertTests((*(f"assert f({x}) == {y}" for x, y in CASES), "assert f(2) + f(1) == 5")),
    "check": CheckTests("def check(c):\n" + "\n".join(f"    assert c({x}) == {y}" for x, y in CASES), "f"),
    "stream": StreamTests(tuple(StreamCase(f"{x}\n", f"{y}\n") for x, y in CASES)),
}


@dataclass(frozen=True)
class Host:
    """What an attack may try to reach: real things of this machine."""

    secret: Path
    out: Path
    port: int
    connections: socket.socket

    def fill(self, source: str) -> str:
        """Put the places into a source."""
        names = {
            "@SECRET@": self.secret,
            "@OUT@": self.out,
            "@PORT@": self.port,
            "@HOST@": os.uname().nodename,
        }
        for name, value in names.items():
            source = source.replace(name, str(value))
        return source

    def untouched(self) -> bool:
        """Say whether nobody has written or called."""
        with contextlib.suppress(BlockingIOError):
            self.connections.accept()
            return False
        return not self.out.exists()


@contextlib.contextmanager
def host() -> Iterator[Host]:
    """Make a secret file, a secret in the environment, and a port that listens."""
    os.environ["AREAL_TEST_SECRET"] = "hush"
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        os.chmod(folder, 0o777)
        secret = Path(folder, "secret")
        secret.write_text("hush")
        yield Host(secret, Path(folder, "out"), listener.getsockname()[1], listener)


async def attempt(pool: Pool, host: Host, source: str, second: str, category: str) -> dict[str, object]:
    """Let one attack try every form of test; return what came of it."""
    verifier = CodeVerifier(pool, LIMITS)
    scores, slowest = {}, 0.0
    for form, tests in FORMS.items():
        start = time.monotonic()
        verdict = await verifier.verify(host.fill(source), tests)
        slowest = max(slowest, time.monotonic() - start)
        scores[form] = (verdict.score, verdict.failure.status if verdict.failure else "ok")
    probe = None
    if category in ("escape", "leak"):
        outcome = await pool.run(Job(host.fill(second or source), Calls((Call("probe"),))), LIMITS)
        probe = [answer.value for answer in outcome.values if isinstance(answer, Returned)]
    honest = await CodeVerifier(pool, replace(LIMITS, wall_s=6.0)).verify(HONEST, FORMS["calls"])
    return {
        **{"scores": scores, "slowest": slowest, "probe": probe},
        **{"honest": honest.score, "honest_seconds": honest.seconds},
        **{"infra": verifier.infra_failures, "untouched": host.untouched()},
    }


def in_time(result: dict[str, Any]) -> bool:
    """Say whether the attack was ended in time, and the honest run after it was as fast as it has to be."""
    return result["slowest"] <= WALL_S + 1 and result["honest_seconds"] <= WALL_S


async def results(landlock: int | None = None, *categories: str) -> list[dict[str, object]]:
    """Run the corpus, some attacks at a time: most of them only wait for their time to be over.

    Args:
        landlock: the version to use at most.
        categories: of the attacks; all, if none is named.
    """
    from attacks import corpus

    waiting = iter([attack for attack in corpus() if not categories or attack.category in categories])
    lanes = await asyncio.gather(*(lane(waiting, landlock) for _ in range(LANES)))
    return [found for lane in lanes for found in lane]


async def lane(waiting: Iterator[Attack], landlock: int | None) -> list[dict[str, object]]:
    """Run one attack after the other, on a pool and against a host of their own.

    Time alone is judged by an attack's last attempt: a machine that is busy with other things makes anything
    late, and late twice more is late.
    """
    pool, found = local_sandbox(1, landlock=landlock), []
    try:
        await CodeVerifier(pool).verify(HONEST, FORMS["calls"])
        before = pool.backend.workers()
        with host() as machine:
            for attack in waiting:
                for number in range(3):
                    result = await attempt(pool, machine, attack.source, attack.second, attack.category)
                    last = number == 2 or in_time(result)
                    about = {"name": attack.name, "category": attack.category, "last": last}
                    found.append(about | result | {"pool": pool.backend.workers() == before})
                    if last:
                        break
    finally:
        await pool.close()
    return found


async def main() -> None:
    landlock, *categories = sys.argv[1:] or [""]
    for result in await results(int(landlock) if landlock else None, *categories):
        print(json.dumps(result))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    asyncio.run(main())
