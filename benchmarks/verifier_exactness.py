"""Checks that reference solutions of GSM8K and MATH-500 score 1, and that those of other problems score 0.

    python benchmarks/verifier_exactness.py --data FOLDER [--pairs N] [--workers N]

FOLDER contains gsm8k_test.jsonl and math500.jsonl, and optionally gsm8k_train.jsonl and aime24.jsonl. The
benchmark gives every published reference solution to math-v1 as the answer to its own problem. It groups the
answers into classes by their text. Then it checks each class against every other, in both directions. A
solution that scores 1 for another problem does so because the two answers are equal. The benchmark lists all
such coincidences between different texts. --pairs checks a random sample. The duration of a check is reported
as the median and the 99th percentile, without the wait for the start of a worker.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import parser, save

from areal.envs.math import MathEnv
from areal.rewards.answers import reference_answer
from areal.rewards.math import MathVerifier


def wrong_references(data: Path, field: str) -> list[int]:
    """Return the indices of the problems whose own published solution does not score 1."""
    env = MathEnv(data=str(data), test_data=str(data))
    rows = [json.loads(line) for line in data.open(encoding="utf-8")]
    wrong = []
    for i, row in enumerate(rows):
        env.reset(options={"index": i, "split": "test"})
        if env.step(row[field])[1] != 1.0:
            wrong.append(i)
    return wrong


def classes(data: Path) -> list[str]:
    rows = [json.loads(line) for line in data.open(encoding="utf-8")]
    answers = [reference_answer(str(row["answer"])) for row in rows]
    return sorted({answer for answer in answers if answer is not None})


def coincidences(
    answers: list[str], pairs: int | None, workers: int
) -> tuple[list[float], list[tuple[str, str]]]:
    """Check ordered pairs of different texts, and return the seconds per check and the equivalent pairs."""
    every = [(a, b) for a in answers for b in answers if a != b]
    if pairs is not None and pairs < len(every):
        every = random.Random(0).sample(every, pairs)
    verifier = MathVerifier(workers=workers)
    with ThreadPoolExecutor(workers) as threads:
        # Whatever the rules decide themselves, this asks all workers, so that they have started.
        list(threads.map(lambda _: verifier.equivalent(r"\max(1,2)", "2"), range(workers)))
        verdicts = list(threads.map(lambda pair: timed(verifier, *pair), every))
    verifier.close()
    return [s for s, _ in verdicts], [pair for pair, (_, equal) in zip(every, verdicts, strict=True) if equal]


def timed(verifier: MathVerifier, answer: str, target: str) -> tuple[float, bool]:
    started = time.perf_counter()
    equal = verifier.equivalent(answer, target)
    return time.perf_counter() - started, equal


def main() -> None:
    """Check all benchmarks."""
    options = parser(__doc__, "verifier_exactness")
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--pairs", type=int, help="number of pairs per benchmark (default: all)")
    options.add_argument("--workers", type=int, default=2)
    given = options.parse_args()
    figures: dict[str, Any] = {}
    for name, file, field in (
        ("gsm8k", "gsm8k_test.jsonl", "answer"),
        ("gsm8k_train", "gsm8k_train.jsonl", "answer"),
        ("math500", "math500.jsonl", "solution"),
        ("aime24", "aime24.jsonl", "solution"),
    ):
        if name in ("gsm8k_train", "aime24") and not (given.data / file).exists():
            continue
        started = time.monotonic()
        wrong, texts = wrong_references(given.data / file, field), classes(given.data / file)
        seconds, equal = coincidences(texts, given.pairs, given.workers)
        figures[name] = {
            "references that do not score 1": wrong,
            "different answers": len(texts),
            "ordered pairs checked": len(seconds),
            "milliseconds of a check": {
                "median": round(1000 * statistics.median(seconds), 4),
                "99th percentile": round(1000 * statistics.quantiles(seconds, n=100)[98], 3),
            },
            "coincidences": equal,
            "seconds": round(time.monotonic() - started, 1),
        }
        print(name, json.dumps(figures[name], ensure_ascii=False, indent=1))
    save(given.output, "verifier_exactness", figures)


if __name__ == "__main__":
    main()
