"""Compares the responses per second of areal and of TRL's GRPO trainer, on the same work and machine.

    python benchmarks/against_trl.py --trl /path/to/bin/python [--repeats 2] [--steps 40]
    python benchmarks/against_trl.py --trl /path/to/bin/python --device cuda [--repeats 1] [--steps 20]

The work is that of ``throughput.py``: its model of 0.9 million parameters with random weights, 16 problems
× 8 responses of at most 32 tokens per update, AdamW, no reference model, and rewards that are noise. TRL
needs its own Python environment (``pip install trl==1.16.0 accelerate`` beside the same torch and vLLM). The
configurations run in turn, each in its own process. The measurement excludes the first ten updates. TRL has
the settings that make it fastest for this work (``trl_grpo.py``). TRL makes one optimizer step per batch.
areal does the same in one configuration, and makes its default of two steps in another.

On a GPU, the model has 0.5 billion parameters of Qwen2.5's shape. An update has 256 responses, whose lengths
are geometric, with a mean of 128 tokens and a maximum of 1,024. TRL trains on 32 responses at a time.
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
from models import qwen2
from throughput import WARMUP, random_model

HERE = Path(__file__).parent
AREAL, TWICE = "areal", "areal, two optimizer steps"
WORK = ["--batch=256", "--mean=128", "--tokens=1024"]
"""Options that define the work on a GPU."""


def main() -> None:
    options = parser(__doc__, "against_trl")
    options.add_argument("--trl", type=Path, required=True, help="Python interpreter of TRL's environment")
    options.add_argument(
        "--ways", help="configurations of TRL (default: generate,vllm-fp32; on a GPU: gpu,gpu-liger)"
    )
    options.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    options.add_argument(
        "--warmup", type=int, default=WARMUP, help="updates before the measured ones (default: %(default)s)"
    )
    options.add_argument("--steps", type=int, default=40, help="number of measured updates (default: 40)")
    options.add_argument("--repeats", type=int, default=2, help="number of rounds (default: 2)")
    arguments = options.parse_args()
    on_gpu = arguments.device == "cuda"
    with tempfile.TemporaryDirectory() as folder:
        model = f"{folder}/model"
        qwen2(Path(model), "0.5b") if on_gpu else random_model(Path(model))
        steps = [f"--steps={arguments.steps}", *(WORK if on_gpu else [])]
        of_areal = [*steps, f"--warmup={arguments.warmup}"]
        of_areal += ["--device=cuda", "--size=0.5b"] if on_gpu else []
        of_trl = [str(arguments.trl.absolute()), str(HERE / "trl_grpo.py"), model]
        of_trl += ["--warmup=4"] if on_gpu else []  # it has nothing in stock that would have to be used up
        at_once = ["--at-once=32"] if on_gpu else []
        ways: dict[str, Callable[[], float]] = {
            AREAL: partial(measured_areal, Path(folder), [*of_areal, "learner.minibatches=1"]),
            TWICE: partial(measured_areal, Path(folder), of_areal),
        }
        for way in (arguments.ways or ("gpu,gpu-liger" if on_gpu else "generate,vllm-fp32")).split(","):
            ways[f"TRL, {way}"] = partial(measured_trl, [*of_trl, way, *steps, *at_once, "--folder", folder])
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
