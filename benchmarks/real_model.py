"""A real pretrained model learns: reward over the updates, and held-out accuracy before and after.

    python benchmarks/real_model.py --model FOLDER_OR_HUB_ID --device cuda --seeds 0,1

math-v1's two-digit sums and differences, with one worked example in the prompt that shows the form of an
answer. No training problem comes twice. Runs of several seeds share the machine with ``--jobs``; a stopped
benchmark goes on where it was.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from async_vs_sync import curve
from common import BLUE, GREEN, GREY, ORANGE, PURPLE, parser, picture, save, shares, train_once

PROMPT = (
    r"{problem}\nPut the final answer in \\boxed{{}}. Example: Compute 3 + 4. The answer is \\boxed{{7}}."
)
SETTINGS = (
    "env_options.difficulty=2",
    f'env_options.prompt="{PROMPT}"',
    "rollout.batch_size=256",
    "rollout.max_new_tokens=96",
    "learner.learning_rate=1e-5",
    "evaluation.problems=512",
    "checkpoint.every=0",
)
COLOURS = (BLUE, ORANGE, GREEN, PURPLE)


def draw(folder: Path, runs: dict[str, dict[str, Any]]) -> None:
    with picture(folder, "real_model", "math-v1, two-digit sums") as figure:
        axes = figure.subplots()
        for colour, (seed, run) in zip(COLOURS, runs.items(), strict=False):
            steps = range(1, len(run["rewards"]) + 1)
            axes.plot(steps, run["rewards"], color=colour, label=f"seed {seed}: reward, mean of 10 updates")
            axes.plot([0, steps[-1]], [run["accuracy_before"], run["accuracy"]], "o", color=colour)
        axes.plot([], [], "o", color=GREY, label="held-out accuracy before and after")
        axes.set_xlabel("updates")
        axes.set_ylim(0, 1)
        axes.legend(loc="lower right", frameon=False)


def main() -> None:
    options = parser(__doc__, "real_model")
    options.add_argument("--model", required=True, help="a folder or a hub id")
    options.add_argument("--steps", type=int, default=60, help="updates of each run (%(default)s)")
    options.add_argument("--seeds", default="0,1", help="which (%(default)s)")
    options.add_argument("--jobs", type=int, default=1, help="runs at a time (%(default)s)")
    options.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    options.add_argument("overrides", nargs="*", metavar="key=value", help="settings of every run")
    given = options.parse_args()
    split = shares(given.jobs, given.device) if given.jobs > 1 else [f"device={given.device}"]
    common = [f"model={given.model}", f"steps={given.steps}", *SETTINGS, *split, *given.overrides]
    seeds = given.seeds.split(",")

    def run(seed: str) -> dict[str, Any]:
        return train_once(given.output, f"seed-{seed}", [*common, f"seed={seed}"], curve)

    with ThreadPoolExecutor(given.jobs) as pool:
        runs = dict(zip(seeds, pool.map(run, seeds), strict=True))
    for seed, found in runs.items():
        print(f"seed {seed}: held-out accuracy {found['accuracy_before']:.3f} to {found['accuracy']:.3f}")
    print(save(given.output, "real_model", {"model": Path(given.model).name, "runs": runs}))
    draw(given.output, runs)


if __name__ == "__main__":
    main()
