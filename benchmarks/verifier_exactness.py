"""Verifier exactness: reference solutions of GSM8K and MATH-500 score 1, those of other problems 0.

    python benchmarks/verifier_exactness.py --data FOLDER [--pairs N] [--workers N]

FOLDER has gsm8k_test.jsonl and math500.jsonl. Every reference solution, as it is published, is given to
math-v1 as the answer to its own problem. Answers are put in classes by their text; then each class is checked
against every other, in both directions: a solution that scores 1 for another problem does so because the
answers are equal, and all such coincidences between different texts are listed. All pairs of MATH-500's 301
classes are 90,000 checks of 5 to 20 ms each; --pairs takes a random sample.
"""

from __future__ import annotations

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common import parser, save

from areal.envs.math import MathEnv
from areal.rewards.answers import reference_answer
from areal.rewards.math import MathVerifier


def wrong_references(data: Path, field: str) -> list[int]:
    """Return the problems whose own published solution does not score 1."""
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


def coincidences(answers: list[str], pairs: int | None, workers: int) -> tuple[int, list[tuple[str, str]]]:
    """Return how many ordered pairs of different texts were checked, and those that are equivalent."""
    every = [(a, b) for a in answers for b in answers if a != b]
    if pairs is not None and pairs < len(every):
        every = random.Random(0).sample(every, pairs)
    verifier = MathVerifier(workers=workers)
    with ThreadPoolExecutor(workers) as threads:
        verdicts = threads.map(lambda pair: verifier.equivalent(*pair), every)
        found = [pair for pair, equal in zip(every, verdicts, strict=True) if equal]
    verifier.close()
    return len(every), found


def main() -> None:
    """Check both benchmarks."""
    options = parser(__doc__, "verifier_exactness")
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--pairs", type=int, help="of each benchmark; all of them if left out")
    options.add_argument("--workers", type=int, default=2)
    given = options.parse_args()
    figures: dict[str, Any] = {}
    for name, file, field in (
        ("gsm8k", "gsm8k_test.jsonl", "answer"),
        ("math500", "math500.jsonl", "solution"),
    ):
        started = time.monotonic()
        wrong, texts = wrong_references(given.data / file, field), classes(given.data / file)
        checked, equal = coincidences(texts, given.pairs, given.workers)
        figures[name] = {
            "references that do not score 1": wrong,
            "different answers": len(texts),
            "ordered pairs checked": checked,
            "coincidences": equal,
            "seconds": round(time.monotonic() - started, 1),
        }
        print(name, json.dumps(figures[name], ensure_ascii=False, indent=1))
    save(given.output, "verifier_exactness", figures)


if __name__ == "__main__":
    main()
