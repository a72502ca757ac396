"""Measures whether a model learns to avoid responses that crash its program.

    python benchmarks/crashing.py [--steps 100] [--seeds 0,1,2]

Two programs in benchmarks/crashing_agent.py call the starter model once for each problem of math-v1. The
first program parses the response as a bare number, and crashes if the model shows its working. The model
shows its working in half of its responses, and is then correct more often. The second program accepts every
response. For each update, the benchmark records the share of responses that would crash the first program,
whichever program made the call. It also records the reward that the run reports. A crash must be an episode
with reward 0 in its batch, so that the reported reward covers all episodes. The benchmark fails if the record
contradicts this.
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
"""Number of updates at the beginning and at the end over which the benchmark averages."""


def crashes(episode: Episode, tokenizer: Any) -> bool:
    """Return whether the response of an episode crashes the program that parses bare numbers."""
    (trajectory,) = episode.trajectories
    text = tokenizer.decode(trajectory.tokens[trajectory.loss_mask].tolist(), skip_special_tokens=True)
    try:
        answer(text)
    except ValueError:
        return True
    return False


def measure(program: str, seed: int, steps: int) -> dict[str, list[float]]:
    """Train with a program for some updates and return the share of crashes and the rewards of each update.

    Raises:
        AssertionError: the record lacks a crash, a crash has a reward, or the reported reward does not cover
            all episodes.
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
    made.add_argument("--steps", type=int, default=100, help="number of updates of each run (default: 100)")
    made.add_argument("--seeds", default="0,1,2", help="seeds of the runs (default: 0,1,2)")
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
