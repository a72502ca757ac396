"""Draws a timeline of responses and updates, for a synchronous and an asynchronous run.

    python benchmarks/timeline.py                                   # two short runs, and the picture
    python benchmarks/timeline.py --draw docs/figures/timeline.json # only the picture, from recorded figures

Both runs are real training runs on the work of benchmarks/async_vs_sync.py, with drawn response lengths. Few
responses are in flight at once, so that each one is visible. The runs record the start and the end of each
response, and the versions that sampled it. The times of updates and weight loads follow from the run's
metrics, counted back from the moment at which the run wrote the rollouts of each update.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from async_vs_sync import in_process, run_steps, write_model
from common import GRAY, parser, picture, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WARMUP = 8
"""The number of updates that are not shown, because they compile kernels."""
WAYS = {"synchronous, η=0": 0, "asynchronous, η=8": 8}
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")  # Okabe and Ito's
SETTINGS = (
    "env=noise-v0",
    "agent=drawn-length",
    "rollout.batch_size=32",
    "rollout.group_size=4",
    "rollout.max_new_tokens=256",
    "rollout.max_model_len=384",
    "evaluation.problems=0",
    "learner.learning_rate=1e-6",
    "learner.minibatches=4",
    "checkpoint.every=0",
    "device=cpu",
)
UPDATES = 20
"""The number of updates of each run."""


def main() -> None:
    options = parser(__doc__, "timeline")
    options.add_argument(
        "--seconds", type=float, default=6, help="seconds of each run to show (default: %(default)s)"
    )
    options.add_argument(
        "--mean-length", type=int, default=32, help="mean tokens per response (default: %(default)s)"
    )
    options.add_argument(
        "--draw", type=Path, metavar="JSON", help="only draw the picture again, without runs"
    )
    given = options.parse_args()
    if given.draw:
        results = json.loads(given.draw.read_text())["results"]
    else:
        results = measure(given.mean_length, given.seconds)
        save(given.output, "timeline", results)
    draw(results, given.output if given.draw is None else given.draw.parent, given.seconds)


def measure(mean_length: int, seconds: float) -> dict[str, Any]:
    """Make a run of each way, and return the parts to draw."""
    results = {}
    with tempfile.TemporaryDirectory() as name:
        model = write_model(Path(name) / "model", None)
        drawn = f"agent_options.mean={mean_length}"
        for way, eta in WAYS.items():
            run = Path(name) / f"eta-{eta}"
            settings = [*SETTINGS, drawn, f"model={model}", f"output={name}", f"name={run.name}"]
            settings += [f"steps={UPDATES}", f"rollout.max_staleness={eta}"]
            in_process(way, run_steps, settings, UPDATES)
            results[way] = shown(read(run, eta == 0), seconds)
    return results


def read(run: Path, synchronous: bool) -> dict[str, Any]:
    """Return the responses, updates and weight loads of a run, in seconds since the epoch."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").open()]
    responses, updates, loads = [], [], []
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        step = row["step"]
        file = run / "rollouts" / f"step-{step:06d}.jsonl"
        end = file.stat().st_mtime
        # The step lasts from the end of the one before; its batch came after time/wait of it.
        began = end - row["time/step"] + row["time/wait"]
        updates.append({"version": step, "start": began, "end": began + row["time/train"]})
        if synchronous:  # the step ends with the load
            loads.append({"version": step, "end": end, "pause": row["time/pause"]})
        elif following:  # the next row reports the load
            loads.append(
                {"version": step, "end": end + following["time/sync"], "pause": following["time/pause"]}
            )
        for line in file.open():
            for episode in json.loads(line)["episodes"]:
                [trajectory] = episode["trajectories"]
                versions = sorted({v for v in trajectory["versions"] if v >= 0})
                responses.append({"start": episode["started"], "end": episode["ended"], "versions": versions})
    return {"responses": responses, "updates": updates, "loads": loads}


def shown(run: dict[str, Any], seconds: float) -> dict[str, Any]:
    """Return the part of a run to draw, with times relative to its beginning."""
    zero = run["updates"][WARMUP - 1]["end"]
    return {
        kind: [
            {k: round(v - zero, 4) if k in ("start", "end") else v for k, v in item.items()}
            for item in items
            if item["end"] > zero and item.get("start", item["end"]) < zero + seconds
        ]
        for kind, items in run.items()
    }


def draw(results: dict[str, Any], folder: Path, seconds: float) -> None:
    """Draw each way as a row for the learner above lanes of responses."""
    with picture(folder, "timeline", "Responses and updates over time", (10, 7.5)) as figure:
        axes = figure.subplots(len(results), 1, sharex=True)
        for panel, (way, run) in zip(axes, results.items(), strict=True):
            draw_way(panel, run, seconds)
            updates = sum(0 < u["end"] <= seconds for u in run["updates"])
            panel.set_title(f"{way}: {updates} updates in {seconds:g} s", loc="left", fontsize=10)
        axes[-1].set_xlabel("seconds (color: version of the weights; dotted line: new weights are loaded)")


def draw_way(axes: Axes, run: dict[str, Any], seconds: float) -> None:
    """Draw one run."""
    lanes = place(run["responses"])
    loaded = {load["version"]: load["end"] for load in run["loads"]}
    for lane, response in lanes:
        versions, end = response["versions"], response["end"]
        # A version that is loaded after what is shown has no place here.
        starts = [response["start"], *(min(loaded.get(v, math.inf), end) for v in versions[1:])]
        for version, left, right in zip(versions, starts, [*starts[1:], end], strict=True):
            axes.barh(-lane, right - left, left=left, height=0.8, color=color(version))
    for update in run["updates"]:
        start, made = update["start"], color(update["version"])
        axes.barh(3, update["end"] - start, left=start, height=3, color=made, edgecolor="white")
    for load in run["loads"]:
        axes.axvline(load["end"], color=GRAY, linewidth=0.8, linestyle=":")
    lowest = max((lane for lane, _ in lanes), default=0)
    axes.set_xlim(0, seconds)
    axes.set_ylim(-lowest - 1, 5)
    axes.set_yticks([3, -lowest / 2], ["learner", "engine:\nresponses"])


def place(responses: list[dict[str, Any]]) -> list[tuple[int, dict[str, Any]]]:
    """Assign each response to the first lane that is free when it starts."""
    free: list[float] = []
    found = []
    for response in sorted(responses, key=lambda a: a["start"]):
        lane = next((i for i, end in enumerate(free) if end <= response["start"]), len(free))
        free[lane : lane + 1] = [response["end"]]
        found.append((lane, response))
    return found


def color(version: int) -> str:
    """Return the color of a version, which differs from those of its neighbors."""
    return COLORS[version % len(COLORS)]


if __name__ == "__main__":
    main()
