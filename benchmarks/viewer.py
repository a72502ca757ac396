"""Measures how fast the page of `areal view` opens and filters a large run, and the memory of its server.

The benchmark generates a run of STEPS updates with 100 rollouts each once, in OUTPUT, and starts a server on
it. It times the responses that the page waits for. These are the ones for opening the page (page, states,
settings, all metrics, the first list), before and after the index is complete, and the lists with filters,
sort orders and search. It also times a headless Chromium, if there is one, until it shows the curves. Times
are medians.

    python benchmarks/viewer.py
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
from common import parser, save

from areal.config import parse_config
from areal.telemetry.run_directory import METRICS, RunDirectory, json_line

GROUPS, SIZE, TOKENS = 10, 10, 100
DISTINCT = 1000
"""The number of generated records; those of later updates are links to them, and are read like others."""
REPEATS = 5
KEYS = (
    "loss", "grad_norm", "lr", "policy/entropy", "policy/kl", "policy/clip_ratio", "policy/behav_ratio",
    "mismatch/logprob", "mismatch/logprob_max", "mismatch/kl", "mismatch/tokens", "advantage/zero",
    "time/train", "learner/tokens_per_s", "learner/mfu", "reward/mean", "reward/std", "reward/correct",
    "reward/format", "staleness/mean", "staleness/max", "response/length_mean", "response/truncated",
    "response/turns_mean", "response/trajectories_mean", "time/step", "time/wait", "time/sync",
    "time/generate", "overlap", "throughput/tokens_per_s", "throughput/trajectories_per_s",
)  # fmt: skip
"""The metrics of a typical line."""
LOGPROBS = [-(random.Random(n).random() ** 4) * 5 for n in range(1000)]


def make(folder: Path, steps: int) -> RunDirectory:
    """Return the run, and generate it if it does not exist."""
    name = f"{steps}-steps"
    if (folder / name / "whole").is_file():
        return RunDirectory.open(folder / name)
    shutil.rmtree(folder / name, ignore_errors=True)
    run = RunDirectory.create(parse_config({"output": folder, "name": name, "steps": steps}))
    chance = random.Random(0)
    (run.path / "rollouts").mkdir()
    with (run.path / METRICS).open("w") as file:
        for step in range(1, steps + 1):
            file.write(json_line({"step": step, **{key: chance.random() for key in KEYS}}))
            record = run.path / "rollouts" / f"step-{step:06d}.jsonl"
            if step > DISTINCT:
                record.hardlink_to(record.with_name(f"step-{(step - 1) % DISTINCT + 1:06d}.jsonl"))
                continue
            lines = [group(step, GROUPS * step + number, chance) for number in range(GROUPS)]
            record.write_text("".join(lines))
    (run.path / "whole").touch()
    return run


def group(step: int, number: int, chance: random.Random) -> str:
    return json_line(
        {"id": number, "version": step - 1, "episodes": [episode(step, chance) for _ in range(SIZE)]}
    )


def episode(step: int, chance: random.Random) -> dict[str, Any]:
    length, given = chance.randrange(TOKENS // 2, TOKENS * 3 // 2), 20
    parts = {
        "correct": float(chance.random() < 0.5),
        "format": 0.1 * (chance.random() < 0.9),
        "length": -length / 1000,
    }
    reward = sum(parts.values())
    oldest = max(0, step - chance.randrange(1, 5))
    trajectory = {
        "tokens": [3, *chance.choices(range(10, 300), k=given - 1 + length)],
        "loss_mask": [False] * given + [True] * length,
        "logprobs": [0.0] * given + chance.choices(LOGPROBS, k=length),
        "versions": [-1] * given + [oldest] * (length // 2) + [step - 1] * (length - length // 2),
        "finish": "eos" if chance.random() < 0.9 else "length",
        "turns": [given],
        "calls": [0],
        "rewards": [reward],
    }
    return {
        "trajectories": [trajectory],
        "reward": reward,
        "reward_parts": parts,
        "env": chance.choice("abc"),
    }


def timed(ask: Callable[[], Any]) -> float:
    start = time.perf_counter()
    ask()
    return time.perf_counter() - start


def main() -> None:
    arguments = parser(__doc__, "viewer")
    arguments.add_argument(
        "--steps",
        type=int,
        default=10_000,
        help="updates of the run, with 100 rollouts each (default: 10000)",
    )
    given = arguments.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    run = make(given.output, given.steps)
    cache = given.output / "cache"
    shutil.rmtree(cache, ignore_errors=True)
    begun = time.perf_counter()
    server = subprocess.Popen(
        [sys.executable, "-m", "areal", "view", run.path],
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        address = server.stdout.readline().split(": ", 1)[1].split()[0]
        results: dict[str, Any] = {
            "rollouts": given.steps * GROUPS * SIZE,
            "start_s": time.perf_counter() - begun,
        }
        with httpx.Client(base_url=address, timeout=600) as client:
            results |= {"chromium_before_index_s": shown(address)}
            results |= measured(client, run.path.name, given.steps)
            results |= {"chromium_s": shown(address)}
        results["server_mb"] = psutil.Process(server.pid).memory_info().rss / 1e6
        results["index_mb"] = sum(path.stat().st_size for path in cache.rglob("*.sqlite")) / 1e6
    finally:
        server.terminate()
        server.wait()
    print(json.dumps(results, indent=2))
    print(save(given.output, "viewer", results))


def shown(address: str) -> float | None:
    """Return the seconds until a headless Chromium shows the curves; None: there is no Chromium."""
    found = shutil.which("chromium"), shutil.which("chromedriver")
    if not all(found):
        return None
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = found[0]
    for flag in ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{flag}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(found[1]))
    try:
        return statistics.median(timed(lambda: show(driver, address)) for _ in range(REPEATS))
    finally:
        driver.quit()


def show(driver: Any, address: str) -> None:
    """Open the page, and wait until it shows the curves."""
    driver.get("about:blank")
    driver.get(address)
    there = (
        "return !document.querySelector('main').hasAttribute('aria-busy')"
        " && document.querySelectorAll('.chart canvas').length > 15"
    )
    while not driver.execute_script(there):
        time.sleep(0.01)


def measured(client: httpx.Client, name: str, steps: int) -> dict[str, Any]:
    def get(path: str, **query: Any) -> dict[str, Any]:
        response = client.get(path, params=query)
        response.raise_for_status()
        return response.json() if path.startswith("api") else {}

    def open_page() -> None:
        get("")
        get("api/states")
        mark, more = "", True
        while more:
            found = get("api/metrics", run=name, mark=mark)
            mark, more = found["mark"], found["more"]
        get("api/settings")

    def find(**query: Any) -> dict[str, Any]:
        return get("api/rollouts", run=name, limit=50, **query)

    results: dict[str, Any] = {"open_before_index_s": timed(open_page), "first_list_s": timed(find)}
    start = time.perf_counter()
    while find()["left"]:
        time.sleep(1)
    results["index_s"] = time.perf_counter() - start
    row = find(**{"from": steps // 3, "to": steps // 3})["rows"][0]
    some = {"step": row["step"], "group": row["group"]}
    ways = {
        "open": open_page,
        "newest": lambda: find(sort="step", descending=1),
        "worst": lambda: find(sort="reward"),
        "longest": lambda: find(sort="tokens", descending=1),
        "stalest of one environment": lambda: find(sort="staleness", descending=1, env="b"),
        "one step": lambda: find(sort="reward", **{"from": steps // 2, "to": steps // 2}),
        "half of the run, cut off, worst first": lambda: find(
            sort="reward", finish="length", **{"from": steps // 4, "to": steps * 3 // 4}
        ),
        "worst by a part of the reward": lambda: find(sort="part", part="length"),
        "worst by a part, of one environment, cut off": lambda: find(
            sort="part", part="length", env="b", finish="length"
        ),
        "half of a part, by another order": lambda: find(
            part="length", part_least=-0.1, part_most=-0.05, sort="tokens", descending=1
        ),
        "right, but long": lambda: find(least=1, part="length", part_most=-0.14, sort="part"),
        "by a part, none found": lambda: find(
            sort="part", part="length", env="b", part_least=-0.06, part_most=-0.05, least=1.2
        ),
        "by reward, far down": lambda: find(sort="reward", least=0.5, skip=steps * GROUPS),
        "text that is nowhere": lambda: find(text="nowhere to be found"),
        "one group, whole": lambda: get("api/group", run=name, **some),
    }
    return results | {
        f"{way}_s": statistics.median(timed(ask) for _ in range(REPEATS)) for way, ask in ways.items()
    }


if __name__ == "__main__":
    main()
