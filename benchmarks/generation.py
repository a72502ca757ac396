"""Measures the tokens/s of generation alone, with log-probabilities: shared-GPU engines and bare vLLM.

    python benchmarks/generation.py --size 0.5b --engines 1,2,4
    python benchmarks/generation.py --size tiny --device cpu --engines 1 --in-flight 32

The model has a real shape and random weights. ``--in-flight`` requests are always in flight, in groups of
eight with one prompt. The lengths of the responses are geometric. The benchmark measures two configurations
for each number of engines that share the device and the requests:

- areal: the run's process sends requests to engines in their own processes, as in a run.
- bare: AsyncLLM runs alone in the same processes, with the same settings and log-probabilities. Each engine
  has its share of the requests.

*plain* is one engine with vLLM's own scheduler, which sends each token as soon as it is sampled.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import math
import random
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import inside_engine
from common import parser, save
from models import QWEN2, qwen2

from areal.placement.inventory import probe
from areal.rollout.engine import Sampling
from areal.rollout.engines import Engines
from areal.rollout.router import max_in_flight
from areal.rollout.vllm_start import EngineSettings, variables
from areal.runtime.start import start_engines
from areal.runtime.worker_engine import WorkerEngine
from areal.workers.handle import side_by_side
from areal.workers.process import launch

GROUP = 8
PROMPT = 96
"""Number of tokens of a prompt."""
LONGEST = 10
"""Maximum length of a response, as a multiple of the mean length."""


def work(arguments: argparse.Namespace, vocabulary: int) -> tuple[list[list[int]], list[int]]:
    """Return the prompts, each repeated for all members of its group, and the lengths of the responses."""
    rng = random.Random(0)
    prompts = [[rng.randrange(5, vocabulary) for _ in range(PROMPT)] for _ in range(4000)]
    stays, longest = math.log1p(-1 / arguments.mean), LONGEST * arguments.mean
    lengths = [min(longest, 1 + int(math.log1p(-rng.random()) / stays)) for _ in range(50_000)]
    return [prompt for prompt in prompts for _ in range(GROUP)], lengths


async def areal_rate(
    engines: list[WorkerEngine], prompts: list[list[int]], lengths: list[int], in_flight: int, seconds: float
) -> float:
    """Return the tokens/s of requests from this process, after a warm-up of a quarter of the time."""
    together = Engines({engine.worker.name: engine for engine in engines})
    numbers, begin, count = itertools.count(), time.monotonic() + seconds / 4, 0

    async def requests() -> None:
        nonlocal count
        while True:
            number = next(numbers)
            sampling = Sampling(lengths[number % len(lengths)], ignore_eos=True)
            completion = await together.generate(prompts[number % len(prompts)], sampling)
            if time.monotonic() >= begin:
                count += len(completion.ids)

    running = [asyncio.create_task(requests()) for _ in range(in_flight)]
    await asyncio.wait(running, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    rate = count / (time.monotonic() - begin)
    for task in running:
        task.cancel()
    for found in await asyncio.gather(*running, return_exceptions=True):
        if not isinstance(found, asyncio.CancelledError):
            raise found
    return rate


async def bare_rate(
    engines: list[WorkerEngine], prompts: list[list[int]], lengths: list[int], in_flight: int, seconds: float
) -> float:
    """Return the total tokens/s of AsyncLLM in all engines' own processes."""
    share, step = in_flight // len(engines), len(prompts) // len(engines)
    calls = (
        engine.worker.call(
            inside_engine.bare, prompts[at * step : (at + 1) * step], lengths[at::3], share, seconds, True
        )
        for at, engine in enumerate(engines)
    )
    return sum(await asyncio.gather(*calls))


def settings(arguments: argparse.Namespace, model: str, sharing: int) -> EngineSettings:
    """Return the settings of one of ``sharing`` engines on the device."""
    on_gpu, longest = arguments.device == "cuda", PROMPT + LONGEST * arguments.mean
    device = probe("cuda").devices[0] if on_gpu else None
    return EngineSettings(
        model=model,
        device=arguments.device,
        dtype="bfloat16" if on_gpu else "float32",
        max_model_len=longest,
        max_num_seqs=max_in_flight(arguments.in_flight, sharing),
        memory=0.4 / sharing if on_gpu else 1.0,
        eos_ids=(1,),
        eager=not on_gpu,
        device_bytes=device.nbytes if device else 0,
        visible_devices=device.visible if device else "",
    )


async def measure(arguments: argparse.Namespace, model: str) -> dict[str, Any]:
    prompts, lengths = work(arguments, QWEN2[arguments.size]["vocab_size"])
    common = prompts, lengths, arguments.in_flight, arguments.seconds
    found: dict[str, Any] = {}

    async def rates(name: str, engines: list[WorkerEngine], bare_only: bool = False) -> None:
        found[name] = {} if bare_only else {"areal": await areal_rate(engines, *common)}
        found[name]["bare"] = await bare_rate(engines, *common)
        print(name, *(f"{way} {rate:,.0f} tokens/s" for way, rate in found[name].items()), flush=True)

    if not arguments.without_plain:
        given = settings(arguments, model, 1)
        [worker] = await side_by_side(launch("plain", variables(given), inside_engine.start_plain, given))
        await rates("plain", [WorkerEngine(worker)], bare_only=True)
        await worker.close(10.0)
    # Those that are measured first are warm for the next.
    for count in arguments.engines:
        begun, given = time.monotonic(), settings(arguments, model, count)
        each = [replace(given, seed=number) for number in range(count)]
        started: dict[str, Any] = await start_engines(each, [launch] * count)
        print(f"{count} engines started in {time.monotonic() - begun:.0f} s", flush=True)
        await rates(f"{count} engines", list(started.values()))
        await asyncio.gather(*(engine.close() for engine in started.values()))
    return found


def main() -> None:
    made = parser(__doc__, "generation")
    made.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    made.add_argument("--size", choices=list(QWEN2), default="0.5b", help="model size (default: %(default)s)")
    made.add_argument("--engines", default="1,2,4", help="numbers of engines to try (default: %(default)s)")
    made.add_argument(
        "--in-flight", type=int, default=256, help="number of requests in flight (default: %(default)s)"
    )
    made.add_argument(
        "--mean", type=int, default=128, help="mean number of tokens of a response (default: %(default)s)"
    )
    made.add_argument(
        "--seconds", type=float, default=16, help="seconds per measurement (default: %(default)s)"
    )
    made.add_argument("--without-plain", action="store_true", help="omit the configuration plain")
    arguments = made.parse_args()
    arguments.engines = [int(count) for count in arguments.engines.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(arguments, qwen2(Path(folder), arguments.size)))
    shown = {name: value for name, value in vars(arguments).items() if name != "output"}
    save(arguments.output, f"generation_{arguments.size}", {"settings": shown, "tokens_per_s": found})
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
