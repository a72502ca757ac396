"""Measures the completions per second of a whole run: generation, update and weight transfer together.

    python benchmarks/throughput.py [--steps 60] [key.sub=value ...]

Each update has 16 problems × 8 completions of 32 tokens. The model is a transformer of 0.9 million parameters
with random weights, which hardly ever ends a response early. The rewards are noise, so that the learner has
work for every group. The result excludes the first ten updates, in which vLLM compiles kernels. On a GPU:

    python benchmarks/throughput.py --device cuda --size 0.5b --mean 128 --batch 256 --tokens 1024 --steps 20

There, the response lengths are geometric, with an average of ``--mean``.
"""

from __future__ import annotations

import json
import math
import random
import statistics
import tempfile
from pathlib import Path
from typing import Any

import gymnasium
from common import parser, save
from models import QWEN2, qwen2
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import areal
from areal.agents.interface import Env, Model, SamplingLimits
from areal.envs.text import UnicodeText
from areal.models import resolve_model

WARMUP = 10


class Noise(gymnasium.Env[str, str]):
    """An environment that rewards the parity of a response: nothing to learn, but no two groups are alike."""

    observation_space = UnicodeText(1000)
    action_space = UnicodeText(10_000)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict]:
        super().reset(seed=seed)
        a, b, c = self.np_random.integers(10, 99, size=3)
        return f"Compute {a} + {b} - {c}.\nPut the final answer in \\boxed{{}}.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        return "", float(sum(map(ord, action)) % 2), True, False, {}


class DrawnLength:
    """An agent that responds once, with a geometric number of tokens, ``mean`` on average, to the limit."""

    def __init__(self, mean: int) -> None:
        self._stays = math.log1p(-1 / mean)
        self._random = random.Random(0)

    async def run(self, env: Env, model: Model) -> None:
        observation = await env.reset()
        length = 1 + int(math.log1p(-self._random.random()) / self._stays)
        asked = [{"role": "user", "content": observation}]
        reply = await model.chat(asked, limits=SamplingLimits(max_tokens=length))
        await env.step(reply.text)


def random_model(folder: Path) -> None:
    starter = resolve_model("starter")
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(starter)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(starter).save_pretrained(folder)


def main() -> None:
    options = parser(__doc__, "throughput")
    options.add_argument("--steps", type=int, default=60, help="measured updates (default: 60)")
    options.add_argument("--warmup", type=int, default=WARMUP, help="warm-up updates (default: %(default)s)")
    options.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options.add_argument(
        "--size", choices=list(QWEN2), help="shape of the model (default: that of the starter model)"
    )
    options.add_argument("--batch", type=int, default=128, help="responses per update (default: %(default)s)")
    options.add_argument(
        "--tokens", type=int, default=32, help="maximum tokens per response (default: %(default)s)"
    )
    options.add_argument(
        "--mean", type=int, help="mean tokens per response (default: as many as a response may have)"
    )
    options.add_argument("overrides", nargs="*", help="settings of the run, such as learner.threads=1")
    arguments = options.parse_args()
    areal.register_env("noise-v0", Noise)
    areal.register_agent("drawn-length", DrawnLength)
    lengths = {"agent": "drawn-length", "agent_options": {"mean": arguments.mean}} if arguments.mean else {}
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        qwen2(model, arguments.size) if arguments.size else random_model(model)
        run = areal.train(
            overrides=arguments.overrides,
            env="noise-v0",
            model=str(model),
            device=arguments.device,
            recipe="none",
            steps=arguments.warmup + arguments.steps,
            output=Path(folder) / "runs",
            rollout={
                "batch_size": arguments.batch,
                "group_size": 8,
                "max_new_tokens": arguments.tokens,
                **({"max_model_len": arguments.tokens + 96} if arguments.mean else {}),
            },
            evaluation={"problems": 0},
            checkpoint={"every": 0},
            learner={"learning_rate": 1e-6},
            **lengths,
        )
    rows = [row for row in run.metrics if "time/step" in row][arguments.warmup :]
    results = summary(rows, arguments.batch)
    print(json.dumps(results, indent=2))
    save(arguments.output, "throughput", results)


def summary(rows: list[dict[str, Any]], batch: int) -> dict[str, Any]:
    seconds = sum(row["time/step"] for row in rows)
    return {
        "completions_per_s": batch * len(rows) / seconds,
        "seconds_per_step": {
            "mean": seconds / len(rows),
            "median": statistics.median(row["time/step"] for row in rows),
        },
        "tokens_per_completion": statistics.fmean(row["response/length_mean"] for row in rows),
        "learner_busy": sum(row["time/train"] for row in rows) / seconds,
        "engine_busy": sum(row["time/generate"] for row in rows) / seconds,
        "staleness_max": max(row["staleness/max"] for row in rows),
        "groups_with_equal_rewards": statistics.fmean(row["advantage/zero"] for row in rows),
    }


if __name__ == "__main__":
    main()
