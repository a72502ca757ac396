"""Trains a real pretrained model, and shows the reward over the updates and the accuracy before and after.

    python benchmarks/real_model.py --model FOLDER_OR_HUB_ID --device cuda --seeds 0,1

The problems are the easiest ones of math-v1, and the prompt shows the format of an answer. The required
format alone earns a tenth of a reward, so that there is a signal at the beginning. The held-out accuracy
counts correct answers only. No training problem occurs twice. With ``--jobs``, runs with several seeds share
the machine. A stopped benchmark resumes from the runs that are finished.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import BLUE, GRAY, GREEN, ORANGE, PURPLE, parser, picture, save, shares, train_once

PROMPT = r"Reply only with \\boxed{{answer}}. For example, 4 + 3 gives \\boxed{{7}}. {problem}"
SETTINGS = (
    "env_options.difficulty=1",
    f'env_options.prompt="{PROMPT}"',
    "env_options.rewards={correct: 1.0, format: 0.1}",
    "rollout.batch_size=512",
    "rollout.group_size=16",
    "rollout.max_new_tokens=32",
    "learner.learning_rate=2e-5",
    "evaluation.problems=512",
    "checkpoint.every=0",
)
COLORS = (BLUE, ORANGE, GREEN, PURPLE)


def curve(metrics: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the shares of correct and of well-formatted responses over the updates, and the accuracies."""
    steps = [row for row in metrics if "time/step" in row]
    held_out = [row["eval/math-v1/correct"] for row in metrics if "eval/math-v1/correct" in row]
    return {
        "right": [row["reward/correct"] for row in steps],
        "formed": [10 * row["reward/format"] for row in steps],
        "accuracy_before": held_out[0],
        "accuracy": held_out[-1],
        "seconds": sum(row["time/step"] for row in steps),
    }


def draw(folder: Path, runs: dict[str, dict[str, Any]]) -> None:
    with picture(folder, "real_model", "A pretrained model learns math-v1 (difficulty 1)") as figure:
        axes = figure.subplots()
        for color, (seed, run) in zip(COLORS, runs.items(), strict=False):
            steps = range(1, len(run["right"]) + 1)
            axes.plot(steps, run["right"], color=color, label=f"seed {seed}: correct answers in a batch")
            axes.plot(steps, run["formed"], color=color, alpha=0.3, label="responses in the required format")
            axes.plot([0, steps[-1]], [run["accuracy_before"], run["accuracy"]], "o", color=color)
        axes.plot([], [], "o", color=GRAY, label="held-out accuracy before and after training")
        axes.set_xlabel("update")
        axes.set_ylabel("share of responses")
        axes.set_ylim(0, 1)
        axes.legend(loc="center left", frameon=False)


def main() -> None:
    options = parser(__doc__, "real_model")
    options.add_argument("--model", required=True, help="folder or hub id of the model")
    options.add_argument("--steps", type=int, default=100, help="updates per run (default: %(default)s)")
    options.add_argument("--seeds", default="0,1", help="seeds, one per run (default: %(default)s)")
    options.add_argument("--jobs", type=int, default=1, help="concurrent runs (default: %(default)s)")
    options.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    options.add_argument("overrides", nargs="*", metavar="key=value", help="settings of all runs")
    given = options.parse_args()
    split = shares(given.jobs, given.device) if given.jobs > 1 else [f"device={given.device}"]
    common = [f"model={given.model}", f"steps={given.steps}", *SETTINGS, *split, *given.overrides]
    seeds = given.seeds.split(",")

    def run(seed: str) -> dict[str, Any]:
        return train_once(given.output, f"seed-{seed}", [*common, f"seed={seed}"], curve)

    with ThreadPoolExecutor(given.jobs) as pool:
        runs = dict(zip(seeds, pool.map(run, seeds), strict=True))
    for seed, found in runs.items():
        print(
            f"seed {seed}: held-out accuracy from {found['accuracy_before']:.3f} to {found['accuracy']:.3f}"
        )
    print(save(given.output, "real_model", {"model": Path(given.model).name, "runs": runs}))
    draw(given.output, runs)


if __name__ == "__main__":
    main()
