"""What a step costs whose agent is a program with a Python framework, in each form that a program has.

    python benchmarks/programs.py [--python /path/of/its/environment/bin/python] [--workers 8] [--steps 8]

The same program, benchmarks/programs_agent.py (pydantic-ai, asked once in an episode), on math-v1 with the
starter model, 32 episodes a step:

- function: in areal's own process, all episodes at once. areal's environment needs pydantic-ai for it;
- workers: processes that stay (``agent_options.workers``);
- command: a process for each episode, ``agent_options.at_once`` of them at once.

The figure is ``time/step``, the median of all updates after the second, and their mean: the first have the
start of processes, which is given by itself. ``--python`` is of the environment of the last two.
"""

from __future__ import annotations

import shlex
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import interleaved, parser, save, train

AGENT = Path(__file__).with_name("programs_agent.py")
_WARMUP = 2
"""Updates that are not counted."""
WORK = ["env=math-v1", "rollout.batch_size=32", "rollout.group_size=8", "evaluation.problems=0", "seed=0"]


def ways(python: str, workers: int, at_once: int) -> dict[str, list[str]]:
    """Return the settings of each form."""
    command = shlex.join([python, str(AGENT)])
    return {
        "function": [f"agent={AGENT}:solve"],
        "workers": [
            "agent=program",
            f"agent_options.command={command} --stay",
            f"agent_options.workers={workers}",
        ],
        "command": ["agent=program", f"agent_options.command={command}", f"agent_options.at_once={at_once}"],
    }


def _command(command: str) -> list[str]:
    return ["agent=program", f"agent_options.command={command}"]


def measure(settings: list[str]) -> dict[str, Any]:
    """Run with these settings; return the seconds of its updates."""
    with tempfile.TemporaryDirectory() as folder:
        rows = train(Path(folder) / "run", settings)
    seconds = [row["time/step"] for row in rows if "time/step" in row]
    counted = seconds[_WARMUP:]
    return {
        "first_s": seconds[0],
        "median_s": statistics.median(counted),
        "mean_s": statistics.fmean(counted),
        "steps": len(counted),
        "retries": rows[-1]["rollout/retries"],
    }


def main() -> None:
    made = parser(__doc__, "programs")
    made.add_argument("--python", default=sys.executable, help="of the program's environment (this one)")
    made.add_argument("--workers", type=int, default=8, help="processes that stay (8)")
    made.add_argument("--at-once", type=int, default=8, help="commands at once (8)")
    made.add_argument("--steps", type=int, default=12, help="updates (12)")
    made.add_argument("--repeats", type=int, default=1, help="rounds of all ways in turn (1)")
    made.add_argument("--only", choices=["function", "workers", "command"], help="one way alone")
    arguments = made.parse_args()
    forms = ways(arguments.python, arguments.workers, arguments.at_once)
    if arguments.only:
        forms = {arguments.only: forms[arguments.only]}

    def way(name: str) -> dict[str, Any]:
        found = measure([*WORK, f"steps={arguments.steps}", *forms[name]])
        print(f"{name:10} {found}", flush=True)
        return found

    found = interleaved({name: (lambda name=name: way(name)) for name in forms}, arguments.repeats)
    medians = {name: statistics.median(run["median_s"] for run in runs) for name, runs in found.items()}
    path = save(
        arguments.output, "programs", {"settings": vars(arguments), "runs": found, "median_s": medians}
    )
    for name, median in medians.items():
        share = median / medians.get("function", median)
        print(f"{name:10} {median:6.2f} s a step, {share:.2f} of the function")
    print(path)


if __name__ == "__main__":
    main()
