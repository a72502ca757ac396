"""Measures the overhead of the endpoint: the tokens/s through it relative to those of the engine alone.

    python benchmarks/endpoint.py [--repeats 3] [--seconds 10] [--sequences 256] [--median 40]
    python benchmarks/endpoint.py --device cuda --size 0.5b

The same number of calls is always in flight, with the same prompts (of math-v1) and lengths (log-normal), on
one engine. The benchmark measures these configurations in turn:

- engine: the engine alone. It receives token ids, and returns ids, log-probabilities and versions.
- recorder: a recorder that receives and returns messages and records them, without HTTP.
- one configuration for each protocol: calls over HTTP from a separate process, with one key for each call in
  flight. That process (benchmarks/endpoint_client.py) uses plain sockets, which are cheaper than any SDK, but
  it shares the machine.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import BLUE, GRAY, ORANGE, parser, picture, save
from models import QWEN2, qwen2
from rollout_efficiency import Ticker, WithLengths, Work, for_a_while

from areal.config import STARTER, parse_config
from areal.registry import make_env
from areal.rollout.endpoint.server import EndpointServer
from areal.rollout.engine import Completion, Sampling
from areal.rollout.recorder import Recorder
from areal.rollout.worker import RolloutWorker
from areal.runtime.build import start_rollout_worker
from areal.runtime.plan import plan

CLIENT = Path(__file__).with_name("endpoint_client.py")
MODEL = {"model": "m"}
PROTOCOLS: dict[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "chat": ("/v1/chat/completions", lambda text: {**MODEL, "messages": [user(text)]}),
    "chat, streamed": (
        "/v1/chat/completions",
        lambda text: {**MODEL, "messages": [user(text)], "stream": True},
    ),
    "responses": ("/v1/responses", lambda text: {**MODEL, "input": text}),
    "messages": ("/v1/messages", lambda text: {**MODEL, "messages": [user(text)], "max_tokens": 4096}),
}


def user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


class Counted:
    """An engine that returns responses of drawn lengths and counts their tokens."""

    version = 0

    def __init__(self, engine: Any, work: Work, seed: int, ticker: Ticker) -> None:
        self._engine = WithLengths(engine, work, seed)
        self._ticker = ticker

    async def generate(self, ids: list[int], sampling: Sampling, *, images: object = ()) -> Completion:
        completion = await self._engine.generate(ids, sampling)
        self._ticker.add(len(completion.ids))
        return completion


async def of_engine(worker: RolloutWorker, work: Work, texts: list[str], seed: int, seconds: float) -> float:
    ticker = Ticker(seconds / 4)
    engine = Counted(worker.engine, work, seed, ticker)
    prompts = itertools.cycle([worker.renderer.opening([user(text)]).ids for text in texts])

    async def one() -> None:
        while True:
            await engine.generate(next(prompts), Sampling(work.longest))

    return await for_a_while(seconds, ticker, *(one() for _ in range(work.sequences)))


async def of_recorder(
    worker: RolloutWorker, work: Work, texts: list[str], seed: int, seconds: float
) -> float:
    ticker = Ticker(seconds / 4)
    engine: Any = Counted(worker.engine, work, seed, ticker)
    endless = itertools.cycle(texts)

    async def one() -> None:
        recorder = Recorder(engine, worker.renderer, Sampling(work.longest), worker.max_model_len)
        while True:
            await recorder.chat([user(next(endless))])

    return await for_a_while(seconds, ticker, *(one() for _ in range(work.sequences)))


async def of_endpoint(
    worker: RolloutWorker, work: Work, texts: list[str], seed: int, seconds: float, protocol: str
) -> float:
    """Measure one protocol, excluding the startup of the clients."""
    path, body = PROTOCOLS[protocol]
    ticker = Ticker(seconds / 4)
    engine: Any = Counted(worker.engine, work, seed, ticker)
    server = EndpointServer(worker.renderer.token_texts, 1.0)
    sampling, longest = Sampling(work.longest), worker.max_model_len
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.close)
        opened = [
            await stack.enter_async_context(
                server.open(Recorder(engine, worker.renderer, sampling, longest), 2**31)
            )
            for _ in range(work.sequences)
        ]
        client = await asyncio.create_subprocess_exec(sys.executable, CLIENT, stdin=asyncio.subprocess.PIPE)
        given = {
            "port": int(opened[0].base_url.split(":")[2].partition("/")[0]),
            "path": path,
            "keys": [at.api_key for at in opened],
            "bodies": [json.dumps(body(text)) for text in texts],
        }
        assert client.stdin is not None
        client.stdin.write(json.dumps(given).encode())
        client.stdin.close()
        try:
            return await for_a_while(seconds, ticker, client.wait())
        finally:
            if client.returncode is None:
                client.kill()
                await client.wait()


async def measure(config: Any, work: Work, repeats: int, seconds: float) -> dict[str, list[float]]:
    """Measure all configurations in turn for ``repeats`` rounds and return the tokens/s of each."""
    checked = plan(config)
    worker = await start_rollout_worker(checked, None)
    env = make_env(config.env)
    texts = [env.reset(options={"index": i, "split": "train"})[0] for i in range(work.sequences)]
    found: dict[str, list[float]] = {}

    async def way(name: str, rate: Coroutine[Any, Any, float]) -> None:
        found.setdefault(name, []).append(await rate)
        print(f"{name:16} {found[name][-1]:7.0f} tokens/s", flush=True)

    try:
        await of_engine(worker, work, texts, 0, seconds / 2)  # it warms everything up
        for seed in range(repeats):
            await way("engine", of_engine(worker, work, texts, seed, seconds))
            await way("recorder", of_recorder(worker, work, texts, seed, seconds))
            for protocol in PROTOCOLS:
                await way(protocol, of_endpoint(worker, work, texts, seed, seconds, protocol))
    finally:
        await worker.close()
    return found


def shares(runs: dict[str, list[float]]) -> dict[str, float]:
    """Return the throughput of each configuration relative to the engine, as the mean over the rounds."""
    return {
        name: statistics.fmean(a / b for a, b in zip(rates, runs["engine"], strict=True))
        for name, rates in runs.items()
    }


def draw(folder: Path, runs: dict[str, list[float]], calls: int) -> None:
    title = f"{calls} concurrent calls: directly of the engine, and over HTTP"
    with picture(folder, "endpoint", title) as figure:
        axes = figure.subplots()
        for place, (name, rates) in enumerate(runs.items()):
            color = {"engine": GRAY, "recorder": BLUE}.get(name, ORANGE)
            axes.bar(place, statistics.fmean(rates), color=color, alpha=0.8)
            axes.plot([place] * len(rates), rates, "k.", markersize=5)
            middle = (place, statistics.fmean(rates) / 2)
            axes.annotate(f"{shares(runs)[name]:.2f}×", middle, ha="center", color="white", weight="bold")
        axes.set_xticks(range(len(runs)), [name.replace(", ", ",\n") for name in runs])
        axes.set_ylabel("tokens/s (×: relative to the engine)")


def main() -> None:
    made = parser(__doc__, "endpoint")
    made.add_argument("--repeats", type=int, default=3, help="number of rounds (default: 3)")
    made.add_argument(
        "--seconds",
        type=float,
        default=10,
        help="seconds per measurement, of which a quarter is warm-up (default: 10)",
    )
    made.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    made.add_argument(
        "--size",
        choices=list(QWEN2),
        help="shape of a model with random weights (default: the starter model)",
    )
    made.add_argument("--sequences", type=int, default=256, help="number of calls in flight (default: 256)")
    made.add_argument(
        "--median", type=int, default=40, help="median number of tokens of a response (default: 40)"
    )
    arguments = made.parse_args()
    work = Work(arguments.sequences, arguments.median)
    with tempfile.TemporaryDirectory() as folder:
        model = qwen2(Path(folder), arguments.size) if arguments.size else STARTER
        rollouts = {"batch_size": work.sequences, "group_size": 8, "max_model_len": work.longest + 312}
        config = parse_config({"rollout": rollouts, "model": model, "device": arguments.device})
        runs = asyncio.run(measure(config, work, arguments.repeats, arguments.seconds))
    results = {**asdict(work), "seconds": arguments.seconds, "tokens_per_s": runs, "share": shares(runs)}
    draw(arguments.output, runs, work.sequences)
    save(arguments.output, "endpoint", results)
    for name, share in shares(runs).items():
        print(f"{name:16} {share:.2f} of the engine's throughput")


if __name__ == "__main__":
    main()
