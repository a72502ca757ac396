"""Which families of models train: does the engine compute what the learner does, update after update?

    python benchmarks/architectures.py [--family qwen3-moe gemma2 ...] [--lora]

Each family is a tiny model with random weights, started, trained for three updates at a learning rate that
moves every weight, and compared after each: the largest difference between the engine's log-probability of a
sampled token and the learner's. One that cannot be trained is refused in one line, which the table then has.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import tempfile
from pathlib import Path

from agreement import mismatches
from families import FAMILIES, make

from areal.errors import UserError
from areal.telemetry.logs import capture

BOUND = 1e-4
LIMIT = 400
"""Seconds for one family."""


def one(name: str, lora: bool) -> str:
    """Return what is known of a family after three updates, in this process."""
    with tempfile.TemporaryDirectory() as folder:
        make(name, Path(folder))
        try:
            with capture(None):
                found = asyncio.run(mismatches(Path(folder), lora_rank=4 if lora else 0))
        except UserError as error:
            return f"refused: {str(error).replace(folder, 'MODEL')}"
    result = ", ".join(f"{value:.1e}" for value in found)
    return f"{'agrees' if max(found) < BOUND else 'DIFFERS'}: {result}"


def main() -> None:
    """Try all, each in a process of its own."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--family", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--lora", action="store_true", help="train adapters")
    parser.add_argument("--here", action="store_true", help="in this process, which tries the first alone")
    given = parser.parse_args()
    if given.here:
        print(one(given.family[0], given.lora))
        return
    for name in given.family:
        command = [sys.executable, __file__, "--here", "--family", name, *(["--lora"] if given.lora else [])]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
            lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
            result = lines[-1] if done.returncode == 0 else f"FAILED: {lines[-1] if lines else 'no output'}"
        except subprocess.TimeoutExpired:
            result = f"FAILED: nothing after {LIMIT} s"
        print(f"{name:<16} {result}", flush=True)


if __name__ == "__main__":
    main()
