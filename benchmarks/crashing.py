"""A program that crashes at half of the model's responses teaches the model not to make it crash.

    python benchmarks/crashing.py [--steps 100] [--seeds 0,1,2]

Two programs, benchmarks/crashing_agent.py, ask the starter model once for a problem of math-v1. One reads the
response as a number alone, and crashes where the model shows its working: it does so half of the time, and is
then right more often. The other takes what it gets. Of each update there is the share of the responses at
which the first program crashes, whichever asked, and the reward that the run showed. A crash must be an
episode of its batch that is worth 0, so that the reward shown is that of all: a record that says anything
else ends the benchmark.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Any

from common import BLUE, ORANGE, parser, picture, save, train
from crashing_agent import answer

from areal.models import load_tokenizer, resolve_model
from areal.telemetry.run_directory import RunDirectory
from areal.trajectory import Episode, Group

AGENT = Path(__file__).with_name("crashing_agent.py")
PROGRAMS = {"crashing": ORANGE, "careful": BLUE}
WORK = ["env=math-v1", "env_options.difficulty=1", "evaluation.problems=0"]
ENDS = 10
"""Updates at the beginning and at the end, of which means are given."""


def crashes(episode: Episode, tokenizer: Any) -> bool:
    """Whether the program that reads numbers alone crashes at the response of an episode."""
    (trajectory,) = episode.trajectories
    text = tokenizer.decode(trajectory.tokens[trajectory.loss_mask].tolist(), skip_special_tokens=True)
    try:
        answer(text)
    except ValueError:
        return True
    return False


def measure(program: str, seed: int, steps: int) -> dict[str, list[float]]:
    """Run a program for some updates; return of each the share of crashes, and the rewards.

    Raises:
        AssertionError: a crash is none in the record, or has a reward; or the reward shown leaves some out.
    """
    tokenizer = load_tokenizer(resolve_model("starter"))
    found: dict[str, list[float]] = {"crashes": [], "reward": [], "reward_of_the_others": []}
    with tempfile.TemporaryDirectory() as folder:
        settings = [*WORK, f"agent={AGENT}:{program}", f"seed={seed}", f"steps={steps}"]
        rows = train(Path(folder) / "run", settings)
        run = RunDirectory(Path(folder) / "run")
        for row in rows:
            groups = [Group.from_json(line) for line in run.read_rollouts(row["step"])]
            episodes = [episode for group in groups for episode in group.episodes]
            crashed = [crashes(episode, tokenizer) for episode in episodes]
            rewards = [episode.reward for episode in episodes]
            if program == "crashing":
                assert crashed == [bool(episode.failure) for episode in episodes], row["step"]
                assert not any(r for r, c in zip(rewards, crashed, strict=True) if c), row["step"]
            assert abs(row["reward/mean"] - statistics.fmean(rewards)) < 1e-6, row["step"]
            found["crashes"].append(statistics.fmean(crashed))
            found["reward"].append(row["reward/mean"])
            others = [r for r, c in zip(rewards, crashed, strict=True) if not c]
            found["reward_of_the_others"].append(statistics.fmean(others) if others else 0.0)
    return found


def draw(output: Path, runs: dict[str, list[dict[str, list[float]]]]) -> None:
    title = "Responses that would crash a program, and the reward"
    with picture(output, "crashing", title, (9, 4)) as figure:
        left, right = figure.subplots(1, 2, sharex=True)
        for program, color in PROGRAMS.items():
            for number, found in enumerate(runs[program]):
                label = f"the program {'crashes' if program == 'crashing' else 'handles them'}"
                line = {"color": color, "alpha": 0.8, "linewidth": 1, "label": None if number else label}
                left.plot(range(1, len(found["crashes"]) + 1), found["crashes"], **line)
                right.plot(range(1, len(found["reward"]) + 1), found["reward"], **line)
        left.set(ylabel="share of responses that would crash it", xlabel="update", ylim=(0, 1))
        right.set(ylabel="reward", xlabel="update", ylim=(0, 1))
        left.legend(frameon=False)


def main() -> None:
    made = parser(__doc__, "crashing")
    made.add_argument("--steps", type=int, default=100, help="updates of each run (100)")
    made.add_argument("--seeds", default="0,1,2", help="of the runs (0,1,2)")
    arguments = made.parse_args()
    runs: dict[str, list[dict[str, list[float]]]] = {program: [] for program in PROGRAMS}
    ends: dict[str, dict[str, list[list[float]]]] = {program: {} for program in PROGRAMS}
    for seed in map(int, arguments.seeds.split(",")):
        for program, kept in runs.items():
            found = measure(program, seed, arguments.steps)
            kept.append(found)
            for name, values in found.items():
                both = [statistics.fmean(part) for part in (values[:ENDS], values[-ENDS:])]
                ends[program].setdefault(name, []).append(both)
            print(program, seed, {name: pairs[-1] for name, pairs in ends[program].items()}, flush=True)
    save(arguments.output, "crashing", {"first_and_last_updates": ends, "updates": ENDS, "runs": runs})
    draw(arguments.output, runs)


if __name__ == "__main__":
    main()
