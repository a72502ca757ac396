"""What a step costs whose agent is a program with a Python framework, in each form that a program has.

    python benchmarks/programs.py [--python /path/of/its/environment/bin/python] [--workers 8] [--repeats 3]

The same program, benchmarks/programs_agent.py (pydantic-ai, asked once in an episode), on math-v1 with the
starter model, 32 episodes a step, in turn:

- function: in areal's own process, all episodes at once. areal's environment needs pydantic-ai for it;
- workers: processes that stay (``agent_options.workers``);
- command: a process for each episode, as many at once (``agent_options.at_once``), for three updates.

The figure is ``time/step``: the median of the updates after the second, or of the last one. The first has the
start of the processes, and is given by itself. ``--python`` is of the last two.
"""

from __future__ import annotations

import shlex
import statistics
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from common import interleaved, parser, save, train

AGENT = Path(__file__).with_name("programs_agent.py")
WORK = ["env=math-v1", "rollout.batch_size=32", "rollout.group_size=8", "evaluation.problems=0", "seed=0"]
_WARMUP = 2
"""Updates that are not counted."""
_COMMAND_STEPS = 3
"""Updates with a process for each episode."""


def ways(python: str, workers: int, steps: int) -> dict[str, list[str]]:
    """Return the settings of each form."""
    command = f"agent_options.command={shlex.join([python, str(AGENT)])}"
    stays, ends = f"agent_options.workers={workers}", f"agent_options.at_once={workers}"
    return {
        "function": [f"steps={steps}", f"agent={AGENT}:solve"],
        "workers": [f"steps={steps}", "agent=program", f"{command} --stay", stays],
        "command": [f"steps={_COMMAND_STEPS}", "agent=program", command, ends],
    }


def measure(name: str, settings: list[str]) -> dict[str, Any]:
    """Run with these settings; return the seconds of its updates."""
    with tempfile.TemporaryDirectory() as folder:
        rows = train(Path(folder) / "run", [*WORK, *settings])
    seconds = [row["time/step"] for row in rows if "time/step" in row]
    found = {
        "first_s": seconds[0],
        "median_s": statistics.median(seconds[_WARMUP:]),
        "steps": len(seconds[_WARMUP:]),
        "retries": rows[-1]["rollout/retries"],
    }
    print(f"{name:10} {found}", flush=True)
    return found


def main() -> None:
    made = parser(__doc__, "programs")
    made.add_argument("--python", default=sys.executable, help="of the program's environment (this one)")
    made.add_argument("--workers", type=int, default=8, help="processes that stay, and commands at once (8)")
    made.add_argument("--steps", type=int, default=12, help="updates of function and workers (12)")
    made.add_argument("--repeats", type=int, default=3, help="rounds of all ways in turn (3)")
    arguments = made.parse_args()
    forms = ways(arguments.python, arguments.workers, arguments.steps)
    runs = interleaved({name: partial(measure, name, forms[name]) for name in forms}, arguments.repeats)
    medians = {name: statistics.median(run["median_s"] for run in found) for name, found in runs.items()}
    shares = {name: median / medians["function"] for name, median in medians.items()}
    results = {"workers": arguments.workers, "runs": runs, "median_s": medians, "share": shares}
    path = save(arguments.output, "programs", results)
    for name, median in medians.items():
        print(f"{name:10} {median:6.2f} s a step, {shares[name]:.2f} of the function")
    print(path)


if __name__ == "__main__":
    main()
