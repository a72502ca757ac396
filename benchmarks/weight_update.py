"""Measures the cost of a weight update for requests in flight: from the pause to the first new token.

    python benchmarks/weight_update.py --device cuda --parameters 0.5b --sequences 256
    python benchmarks/weight_update.py --device cuda --parameters 0.5b --sequences 256 --disaggregated
    python benchmarks/weight_update.py --device cpu --parameters tiny --sequences 16

A learner's float32 weights have new random values in each version. They go to an engine on the same device
or, with ``--disaggregated``, on the next GPU (areal.weights). Meanwhile, ``--sequences`` requests are always
in flight. For each update, the benchmark prints in seconds:

- write: the learner's own time to prepare the new weights, while generation continues;
- stop: the time from the call that pauses generation until generation stops;
- load: the time to load the weights;
- first: the time from the call that resumes generation until any request has its next token;
- total: the time from the pause to that token, which is the sum of *stop*, *load* and *first*;
- all: the time from the pause until every request that was in flight has its next token or is finished. The
  engine recomputes the prefix of each of these requests under the new weights.

Nothing else uses the device during the benchmark. At the end, the benchmark compares the log-probabilities of
the engine with those of transformers in the same data type. They must agree under the last weights, and must
not agree under the weights before those.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import random
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from common import BLUE, GREEN, ORANGE, parser, picture, save
from models import QWEN2, qwen2
from transformers import AutoConfig, AutoModelForCausalLM

from areal.placement.inventory import probe
from areal.rollout.engine import Completion, Sampling
from areal.rollout.vllm_engine import VLLMEngine
from areal.rollout.vllm_start import EngineSettings, variables
from areal.weights.interface import VLLM_BACKEND, TransferBackend
from areal.weights.sender import WeightSender, open_sender, transfer

POLL = 0.0005
"""Seconds between two checks for a new token."""
COMPARED = 16
"""The number of sequences, of 64 tokens each, whose log-probabilities are compared."""


@dataclass(frozen=True, slots=True)
class Scale:
    """The lengths of prompts and responses, in tokens, and the data type of the engine's weights."""

    prompt: int
    response: int
    dtype: torch.dtype


SCALES = {"cuda": Scale(512, 1024, torch.bfloat16), "cpu": Scale(64, 256, torch.float32)}


class Watched:
    """An engine that records when its requests have their next tokens after generation resumes.

    The front end knows the number of tokens of each request. It receives outputs only when they are complete,
    except those of requests with stop strings, which the front end itself looks for. The requests here
    therefore have a stop string that never occurs.
    """

    stop = ("never said",)

    def __init__(self, engine: VLLMEngine, sender: WeightSender) -> None:
        self.engine, self._sender = engine, sender
        self._llm: Any = engine._llm
        self._resume = self._llm.resume_generation
        self._llm.resume_generation = self._resume_and_watch
        self._watching: asyncio.Task[tuple[float, float]] | None = None

    async def update(self, version: int) -> dict[str, float]:
        """Load new weights, and return the parts of the time that the update took."""
        begun = time.monotonic()
        metrics = await transfer(self.engine.load(version), asyncio.to_thread(self._sender.send))
        assert self._watching is not None
        first, everyone = await self._watching
        resumed = begun + metrics["time/pause"]
        return {
            "stop": metrics["time/pause"] - metrics["time/load"],
            "load": metrics["time/load"],
            "first": first - resumed,
            "total": first - begun,
            "all": everyone - begun,
        }

    def tokens(self) -> dict[str, int]:
        """Return the current number of tokens of each request."""
        states = self._llm.output_processor.request_states
        return {name: state.detokenizer.num_output_tokens() for name, state in states.items()}

    async def _resume_and_watch(self) -> None:
        before = self.tokens()  # all is still, and all that was sampled is here
        self._watching = asyncio.create_task(self._watch(before))
        await self._resume()

    async def _watch(self, before: dict[str, int]) -> tuple[float, float]:
        first, waiting = 0.0, before
        while waiting:
            await asyncio.sleep(POLL)
            now = self.tokens()
            waiting = {name: n for name, n in waiting.items() if name in now and now[name] <= n}
            if not first and len(waiting) < len(before):
                first = time.monotonic()
        return first, time.monotonic()


class Workload:
    """Sequential requests, as many at a time as the caller starts."""

    def __init__(self, watched: Watched, scale: Scale, vocabulary: int) -> None:
        self._watched, self._scale, self._vocabulary = watched, scale, vocabulary
        self._numbers = itertools.count()
        self.interrupted = 0

    def prompt(self) -> list[int]:
        """Return a prompt of random token ids, different each time."""
        rng = random.Random(next(self._numbers))
        return [rng.randrange(5, self._vocabulary) for _ in range(self._scale.prompt)]

    async def generate(self, first: int) -> None:
        """Send sequential requests; the first asks for ``first`` tokens, so that requests spread out."""
        for length in itertools.chain([first], itertools.repeat(self._scale.response)):
            completion = await self.complete(self.prompt(), length)
            self.interrupted += len(set(completion.versions)) > 1

    async def complete(self, prompt: list[int], length: int) -> Completion:
        """Generate ``length`` tokens for a prompt."""
        sampling = Sampling(length, ignore_eos=True, stop=self._watched.stop)
        return await self._watched.engine.generate(prompt, sampling)


@torch.no_grad()
def randomize(model: torch.nn.Module, version: int) -> None:
    """Set every parameter of a model to its values in ``version``."""
    for number, (name, parameter) in enumerate(model.named_parameters()):
        generator = torch.Generator(parameter.device).manual_seed(version * 100_003 + number)
        noise = torch.randn(parameter.shape, generator=generator, device=parameter.device)
        parameter.copy_(1 + 0.1 * noise if "norm" in name else 0.02 * noise)


async def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    device, scale = arguments.device, SCALES[arguments.device]
    config = AutoConfig.from_pretrained(qwen2(folder, arguments.parameters))
    given = settings(arguments, scale, folder)
    with patch.dict(os.environ, variables(given)):  # it is in this process, where its requests can be watched
        engine = await VLLMEngine.start(given)
    try:
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        colocated: TransferBackend = "shared memory" if device == "cpu" else "CUDA IPC"
        backend: TransferBackend = "broadcast" if arguments.disaggregated else colocated
        sender = open_sender([backend], model.named_parameters(), scale.dtype, device)
        await engine.connect(sender.init_infos())
        watched = Watched(engine, sender)
        work = Workload(watched, scale, config.vocab_size)
        updates = await run(arguments, watched, work, model, sender)
        sender.close()
        prompts = [work.prompt() for _ in range(COMPARED)]
        found = await asyncio.gather(*(work.complete(prompt, 64) for prompt in prompts))
    finally:
        await engine.close()
    assert all(set(completion.versions) == {arguments.updates} for completion in found)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "updates": updates,
        "interrupted_sequences": work.interrupted,
        "agreement": agreement(model, scale, arguments.updates, prompts, found),
    }


def settings(arguments: argparse.Namespace, scale: Scale, folder: Path) -> EngineSettings:
    on_gpu = arguments.device == "cuda"
    devices = probe(arguments.device).devices
    device = devices[int(arguments.disaggregated)] if on_gpu else None
    return EngineSettings(
        model=str(folder),
        device=arguments.device,
        dtype=str(scale.dtype).removeprefix("torch."),
        max_model_len=scale.prompt + scale.response,
        max_num_seqs=arguments.sequences,
        memory=0.25 if on_gpu else 1.0,
        eos_ids=(0,),
        eager=not on_gpu,
        weight_backend=VLLM_BACKEND,
        device_bytes=device.nbytes if device else 0,
        visible_devices=device.visible if device else "",
        stop_strings=True,
    )


async def run(
    arguments: argparse.Namespace,
    watched: Watched,
    work: Workload,
    model: torch.nn.Module,
    sender: WeightSender,
) -> list[dict[str, float]]:
    """Make the updates one after another, each one after all requests have continued for a while."""
    sequences = arguments.sequences
    requests = [
        asyncio.create_task(work.generate(1 + SCALES[arguments.device].response * (i + 1) // sequences))
        for i in range(sequences)
    ]
    updates = []
    for version in range(arguments.updates + 1):
        await asyncio.sleep(arguments.interval)
        while sum(n > 0 for n in watched.tokens().values()) < 0.9 * sequences:
            await asyncio.sleep(0.05)
            for request in requests:
                if request.done():
                    request.result()  # it goes on for ever, or failed
        randomize(model, version)
        written = time.monotonic()
        sender.write(model.named_parameters())
        written = time.monotonic() - written
        context = sum(n + SCALES[arguments.device].prompt for n in watched.tokens().values())
        parts = {"write": written, **await watched.update(version), "tokens_in_flight": context}
        print("  ".join(f"{name} {value:.3f}" for name, value in parts.items()), flush=True)
        updates.append(parts)
    for request in requests:
        request.cancel()
    await asyncio.gather(*requests, return_exceptions=True)
    return updates[1:]  # the first warms up


@torch.no_grad()
def agreement(
    model: Any, scale: Scale, version: int, prompts: list[list[int]], found: list[Completion]
) -> dict[str, dict[str, float]]:
    """Compare the log-probabilities of engine and transformers under the last weights and those before."""
    sampled = torch.tensor([completion.logprobs for completion in found])
    results = {}
    for name, which in (("last", version), ("before", version - 1)):
        randomize(model.float(), which)
        model.to(scale.dtype)
        ids = torch.tensor([p + c.ids for p, c in zip(prompts, found, strict=True)], device=model.device)
        length = sampled.shape[1]
        logits = torch.cat([model(row[None], logits_to_keep=length + 1).logits[:, :-1] for row in ids])
        expected = torch.log_softmax(logits.float(), -1).gather(-1, ids[:, -length:, None])[..., 0]
        error = (sampled - expected.cpu()).abs()
        results[name] = {"mean": float(error.mean()), "max": float(error.max())}
    return results


def summary(updates: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return the median and the maximum of each part."""
    return {
        part: {"median": statistics.median(values), "worst": max(values)}
        for part in updates[0]
        for values in [[update[part] for update in updates]]
    }


def draw(arguments: argparse.Namespace, results: dict[str, Any]) -> None:
    title = f"From the pause to the first new token ({arguments.parameters}, {arguments.sequences} sequences)"
    with picture(arguments.output, "weight_update", title) as figure:
        axes = figure.subplots()
        bottom = [0.0] * len(results["updates"])
        parts = {
            "stop": ("pause generation", ORANGE),
            "load": ("load the weights", BLUE),
            "first": ("first new token", GREEN),
        }
        for part, (label, color) in parts.items():
            values = [1000 * update[part] for update in results["updates"]]
            axes.bar(range(1, 1 + len(values)), values, bottom=bottom, color=color, label=label)
            bottom = [b + v for b, v in zip(bottom, values, strict=True)]
        axes.set_xlabel("update")
        axes.set_ylabel("milliseconds")
        axes.legend(frameon=False)


def main() -> None:
    made = parser(__doc__, "weight_update")
    made.add_argument("--device", choices=sorted(SCALES), default="cuda")
    made.add_argument(
        "--parameters", choices=list(QWEN2), default="0.5b", help="size of the model (default: 0.5b)"
    )
    made.add_argument("--sequences", type=int, default=256, help="requests in flight (default: 256)")
    made.add_argument("--updates", type=int, default=10, help="measured updates (default: 10)")
    made.add_argument("--disaggregated", action="store_true", help="use one GPU each for learner and engine")
    made.add_argument(
        "--interval", type=float, default=2, help="minimum seconds between two updates (default: 2)"
    )
    arguments = made.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results = asyncio.run(measure(arguments, Path(folder)))
    results["summary"] = summary(results["updates"])
    shown = {name: value for name, value in vars(arguments).items() if name != "output"}
    save(arguments.output, "weight_update", {"settings": shown, **results})
    draw(arguments, results)
    print(json.dumps({"summary": results["summary"], "agreement": results["agreement"]}, indent=2))


if __name__ == "__main__":
    main()
