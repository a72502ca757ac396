"""Completions per second of a whole run: generation, update and weight transfer together.

    python benchmarks/throughput.py [--steps 60] [key.sub=value ...]

16 problems × 8 completions of 32 tokens an update, on a transformer of 0.9 million parameters with random
weights (which hardly ever ends a response early), with rewards that are noise, so that the learner has work
to do for every group. The figure leaves out the first ten updates: vLLM compiles kernels in them.
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
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

import areal
from areal.agents.interface import Env, Model, SamplingLimits
from areal.envs.text import UnicodeText
from areal.models import resolve_model

WARMUP = 10


class Noise(gymnasium.Env[str, str]):
    """Rewards a response for the parity of its characters: nothing to learn, but no two groups are alike."""

    observation_space = UnicodeText(1000)
    action_space = UnicodeText(10_000)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict]:
        super().reset(seed=seed)
        a, b, c = self.np_random.integers(10, 99, size=3)
        return f"Compute {a} + {b} - {c}.\nPut the final answer in \\boxed{{}}.", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict]:
        return "", float(sum(map(ord, action)) % 2), True, False, {}


class DrawnLength:
    """Answers once, with a number of tokens that is geometric, ``mean`` on average, to the run's limit."""

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
    options.add_argument("--steps", type=int, default=60, help="updates that are measured (60)")
    options.add_argument("overrides", nargs="*", help="settings of the run, such as learner.threads=1")
    arguments = options.parse_args()
    areal.register_env("noise-v0", Noise)
    with tempfile.TemporaryDirectory() as folder:
        random_model(Path(folder) / "model")
        run = areal.train(
            overrides=arguments.overrides,
            env="noise-v0",
            model=str(Path(folder) / "model"),
            recipe="none",
            steps=WARMUP + arguments.steps,
            output=Path(folder) / "runs",
            rollout={"batch_size": 128, "group_size": 8, "max_new_tokens": 32},
            evaluation={"problems": 0},
            learner={"learning_rate": 1e-6},
        )
    results = summary([row for row in run.metrics if "time/step" in row][WARMUP:])
    print(json.dumps(results, indent=2))
    save(arguments.output, "throughput", results)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    seconds = sum(row["time/step"] for row in rows)
    return {
        "completions_per_s": 128 * len(rows) / seconds,
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
