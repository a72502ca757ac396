"""areal against TRL's GRPO trainer, on the same work and the same machine, in turns: responses per second.

    python benchmarks/against_trl.py --trl /path/to/bin/python [--repeats 2] [--steps 40]

The work is that of ``throughput.py``: its model of 0.9 million parameters with random weights, 16 problems
× 8 responses of at most 32 tokens an update, AdamW, no reference model, rewards that are noise. TRL's Python
is of an environment of its own (``pip install trl==1.16.0 accelerate`` beside the same torch and vLLM). Each
way is a process of its own; the first ten updates are left out. TRL has the settings that make it fastest
there (``trl_grpo.py``). It makes one optimizer step for a batch; so does areal here, and in another way its
default of two.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from common import interleaved, parser, save
from throughput import random_model

HERE = Path(__file__).parent
AREAL, TWICE = "areal", "areal, two optimizer steps"


def main() -> None:
    options = parser(__doc__, "against_trl")
    options.add_argument("--trl", type=Path, required=True, help="the Python that has TRL")
    options.add_argument("--ways", default="generate,vllm-fp32", help="of TRL (generate,vllm-fp32)")
    options.add_argument("--steps", type=int, default=40, help="updates that are measured (40)")
    options.add_argument("--repeats", type=int, default=2, help="rounds (2)")
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        random_model(Path(folder) / "model")
        steps = ["--steps", str(arguments.steps)]
        of_trl = [str(arguments.trl.absolute()), str(HERE / "trl_grpo.py"), f"{folder}/model"]
        ways: dict[str, Callable[[], float]] = {
            AREAL: partial(measured_areal, Path(folder), [*steps, "learner.minibatches=1"]),
            TWICE: partial(measured_areal, Path(folder), steps),
        }
        for way in arguments.ways.split(","):
            ways[f"TRL, {way}"] = partial(measured_trl, [*of_trl, way, *steps, "--folder", folder])
        found = interleaved(ways, arguments.repeats)
    medians = {way: statistics.median(rates) for way, rates in found.items()}
    fastest = max((way for way in medians if way.startswith("TRL")), key=medians.__getitem__)
    results = {
        "responses_per_s": found,
        "median": medians,
        "fastest_of_trl": fastest,
        "ratio": medians[AREAL] / medians[fastest],
    }
    print(json.dumps(results, indent=2))
    save(arguments.output, "against_trl", results)


def measured_areal(folder: Path, steps: list[str]) -> float:
    command = [sys.executable, str(HERE / "throughput.py"), *steps, "--output", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return float(json.loads((folder / "throughput.json").read_text())["results"]["completions_per_s"])


def measured_trl(command: list[str]) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return float(json.loads(ended.stdout.splitlines()[-1])["responses_per_s"])


if __name__ == "__main__":
    main()
