"""Measures the cost of a weight update per number of engines, all at once or in turn (``engine.swap``).

    python benchmarks/weight_sync.py [--engines 1,2,4,8] [--parameters 135] [--updates 5]

Each engine runs in its own process, which has the receiver of a run and copies the received weights into its
own. It has no model. The learner's end, the engines' handles and the order of the calls are also those of a
run. For each number of engines, backend and way, the benchmark prints:

- sync: seconds from the first call until all engines have the new version;
- still: mean seconds for which an engine generates nothing;
- lost: the sum of *still* over all engines. Multiplied by an engine's tokens/s, it is the number of tokens
  that an update costs.

Engines with their own GPUs load in parallel. On this machine, they share its cores.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from common import BLUE, GREEN, ORANGE, PURPLE, parser, picture, save
from loading_engine import LoadingEngine

from areal.rollout.engines import Engines
from areal.runtime.worker_engine import WorkerEngine
from areal.waiting import wait_all
from areal.weights.interface import TransferBackend
from areal.weights.sender import open_sender, transfer
from areal.workers.process import launch

BACKENDS: tuple[TransferBackend, ...] = ("shared memory", "broadcast")
LAYERS, VOCABULARY_SHARE = 24, 0.2


class Timed(WorkerEngine):
    """The engine of a run, with the seconds for which its last load stopped generation."""

    still = 0.0

    async def load(self, version: int, digest: str = "") -> dict[str, float]:
        """Load weights, and record the time without generation."""
        metrics = await super().load(version, digest)
        self.still = metrics["time/pause"]
        return metrics


@dataclass(frozen=True, slots=True)
class Found:
    """The medians of the updates with one number of engines, in seconds."""

    backend: str
    swap: str
    engines: int
    sync: float
    still: float
    lost: float


def weights(millions: float) -> list[tuple[str, torch.Tensor]]:
    """Return float32 tensors with ``millions`` of parameters in total, as many as a small transformer has."""
    total = int(millions * 1e6)
    each = int(total * (1 - VOCABULARY_SHARE) / LAYERS / 7)
    found = [("embedding", torch.zeros(int(total * VOCABULARY_SHARE)))]
    return found + [
        (f"layer {layer}, {part}", torch.zeros(each)) for layer in range(LAYERS) for part in range(7)
    ]


async def measure(
    handles: list[Any], millions: float, backend: TransferBackend, in_turn: bool, updates: int
) -> Found:
    """Update the weights of engines; the first update, which creates a group, does not count."""
    parameters, count = weights(millions), len(handles)
    sender = open_sender([backend] * count, parameters, torch.bfloat16, "cpu", in_turn=in_turn)
    made = [Timed(handle) for handle in handles]
    engines = Engines({handle.name: engine for handle, engine in zip(handles, made, strict=True)}, in_turn)
    await engines.connect(sender.init_infos())
    found = []
    for version in range(1, updates + 2):
        for _, tensor in parameters:
            tensor.fill_(version)
        sender.write(parameters)
        begun = time.monotonic()
        await transfer(engines.load(version), asyncio.to_thread(sender.send))
        found.append((time.monotonic() - begun, sum(engine.still for engine in made)))
        values = await wait_all(*(handle.call(LoadingEngine.first) for handle in handles))
        assert set(values) == {version}, "an engine has other weights"
    sender.close()
    sync, lost = (statistics.median(values) for values in zip(*found[1:], strict=True))
    return Found(backend, "in_turn" if in_turn else "together", count, sync, lost / count, lost)


async def measure_all(counts: list[int], millions: float, updates: int) -> list[Found]:
    handles = await wait_all(*(launch(f"engine {n}", {}, LoadingEngine) for n in range(max(counts))))
    rows = []
    for backend in BACKENDS:
        for count in counts:
            for in_turn in (False, True)[: min(2, count)]:
                found = await measure(handles[:count], millions, backend, in_turn, updates)
                rows.append(found)
                print(
                    f"{backend}, {found.swap}: {count} engines: sync {found.sync:.3f} s, each still for "
                    f"{found.still:.3f} s, lost {found.lost:.3f} engine-seconds",
                    flush=True,
                )
    await wait_all(*(handle.close() for handle in handles))
    return rows


def draw(output: Any, name: str, rows: list[Found]) -> None:
    colors = iter((BLUE, ORANGE, GREEN, PURPLE))
    with picture(output, name, "Engine-seconds that an update takes from generation", (6, 3.5)) as figure:
        axes = figure.subplots()
        for backend, swap in dict.fromkeys((row.backend, row.swap) for row in rows):
            line = [row for row in rows if (row.backend, row.swap) == (backend, swap)]
            axes.plot(
                [row.engines for row in line],
                [row.lost for row in line],
                "o-",
                color=next(colors),
                label=f"{backend}, {swap}",
            )
        axes.set_xlabel("engines")
        axes.set_ylabel("s")
        axes.legend(frameon=False)


def main() -> None:
    made = parser(__doc__, "weight_sync")
    made.add_argument("--engines", default="1,2,4,8", help="numbers of engines (default: %(default)s)")
    made.add_argument(
        "--parameters", type=float, default=135, help="millions of parameters (default: %(default)s)"
    )
    made.add_argument("--updates", type=int, default=5, help="measured updates (default: %(default)s)")
    arguments = made.parse_args()
    counts = [int(count) for count in arguments.engines.split(",")]
    rows = asyncio.run(measure_all(counts, arguments.parameters, arguments.updates))
    draw(arguments.output, "weight_sync", rows)
    settings = {"parameters": arguments.parameters, "updates": arguments.updates}
    save(arguments.output, "weight_sync", {"settings": settings, "rows": [asdict(row) for row in rows]})


if __name__ == "__main__":
    main()
