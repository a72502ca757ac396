"""Measures the duration of a step whose agent is a program with a Python framework, for each form of program.

    python benchmarks/programs.py [--python /path/of/its/environment/bin/python] [--workers 8] [--repeats 3]

The benchmark runs the same program, benchmarks/programs_agent.py (pydantic-ai, one request per episode), on
math-v1 with the starter model and 32 episodes per step. The forms take turns:

- function: the program runs in areal's own process, all episodes at once. areal's environment needs
  pydantic-ai for this form;
- workers: the program runs in persistent processes (``agent_options.workers``);
- command: each episode starts its own process. The same number of processes runs at once
  (``agent_options.at_once``), for three updates.

The result is ``time/step``: the median of the updates after the second, or that of the last update. The first
update includes the start of the processes and is reported separately. ``--python`` applies to the last two
forms.
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
"""The number of updates that are not counted."""
_COMMAND_STEPS = 3
"""The number of updates of the form *command*."""


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
    """Make a run with these settings, and return the seconds of its updates."""
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
    made.add_argument(
        "--python",
        default=sys.executable,
        help="interpreter of the program's environment (default: this one)",
    )
    made.add_argument(
        "--workers", type=int, default=8, help="persistent processes, and concurrent commands (default: 8)"
    )
    made.add_argument("--steps", type=int, default=12, help="updates of function and workers (default: 12)")
    made.add_argument("--repeats", type=int, default=3, help="rounds of all forms in turn (default: 3)")
    arguments = made.parse_args()
    forms = ways(arguments.python, arguments.workers, arguments.steps)
    runs = interleaved({name: partial(measure, name, forms[name]) for name in forms}, arguments.repeats)
    medians = {name: statistics.median(run["median_s"] for run in found) for name, found in runs.items()}
    shares = {name: median / medians["function"] for name, median in medians.items()}
    results = {"workers": arguments.workers, "runs": runs, "median_s": medians, "share": shares}
    path = save(arguments.output, "programs", results)
    for name, median in medians.items():
        print(f"{name:10} {median:6.2f} s per step, {shares[name]:.2f} times that of the function")
    print(path)


if __name__ == "__main__":
    main()
