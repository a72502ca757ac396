"""Scores the answers of an evaluation again, without sampling: after a verifier or its options changed.

The recorded actions are done in the environment again, from the same reset; whatever it earns now is the new
score. The old files stay as they are.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from areal import registry
from areal.errors import UserError
from areal.evaluation.answers import Answer, Header, read_answers, write_answers, write_whole
from areal.evaluation.benchmark import digest_of
from areal.evaluation.evaluate import FAILED
from areal.evaluation.report import Report, markdown, report_of

_WORKERS = 8


@dataclass(frozen=True, slots=True)
class Rescored:
    """What came of it.

    Attributes:
        path: the folder of the new files.
        reports: of each evaluation, with the new scores.
        changed: of each, the answers that changed, before and after.
    """

    path: Path
    reports: list[Report]
    changed: dict[str, list[tuple[Answer, Answer]]]


def answer_files(run: Path) -> list[Path]:
    """Return the files of answers of an evaluation's folder, or the one that is named itself.

    Raises:
        UserError: there are none.
    """
    if run.is_file():
        return [run]
    if (run / "config.yaml").is_file():
        raise UserError(
            f"{run} is a training run; evaluate its model with `areal eval {run} --name NAME`, and give the "
            "folder that this makes"
        )
    found = sorted(run.glob("*.jsonl"))
    if not found:
        raise UserError(f"{run} is no evaluation: there is no file of answers (NAME.jsonl) in it")
    return found


def read_whole(path: Path) -> tuple[Header, list[Answer]]:
    """Return the header and all answers of a finished evaluation.

    Raises:
        UserError: it is not finished.
    """
    header, answers = read_answers(path)
    wanted = [(p, s) for p in range(header.problems) for s in range(header.samples)]
    if [(a.problem, a.sample) for a in answers] != wanted:
        raise UserError(
            f"{path} has {len(answers)} of {len(wanted)} answers; finish it with "
            f"`areal eval --resume {path.parent}`"
        )
    return header, answers


def rescore(
    run: Path, options: dict[str, Any], progress: Callable[[int, int], None] = lambda done, total: None
) -> Rescored:
    """Score all answers of an evaluation again.

    Args:
        run: its folder, or one file of it.
        options: of the environments, in place of those of the evaluation.
        progress: called with the answers done and their total.

    Raises:
        UserError: it is none, is not finished, or its problems have changed.
    """
    folder = _new_folder(run)
    evaluations = [(path, *read_whole(path)) for path in answer_files(run)]
    reports, changed = [], {}
    for path, header, answers in evaluations:
        header = replace(header, env_options={**header.env_options, **options})
        _check_data(header)
        scored = _scored(header, answers, progress)
        folder.mkdir(exist_ok=True)
        write_answers(folder / path.name, header, scored)
        reports.append(report_of(header, scored, seconds=0.0))
        changed[header.name] = [
            pair for pair in zip(answers, scored, strict=True) if pair[0].reward != pair[1].reward
        ]
    write_whole(folder / "report.json", json.dumps([r.to_json() for r in reports], indent=1))
    write_whole(folder / "report.md", markdown(reports))
    return Rescored(folder, reports, changed)


def _new_folder(run: Path) -> Path:
    parent, number = run if run.is_dir() else run.parent, 1
    while (path := parent / ("rescored" if number == 1 else f"rescored-{number}")).exists():
        number += 1
    return path


def _check_data(header: Header) -> None:
    path = header.env_options.get("data")
    if header.data and digest_of(Path(str(path))) != header.data:
        raise UserError(
            f"the problems of '{header.name}' in {path} are not those of the evaluation any more; give a "
            "file that has them with env_options.data=FILE env_options.test_data=FILE"
        )


def _scored(header: Header, answers: list[Answer], progress: Callable[[int, int], None]) -> list[Answer]:
    idle: list[Any] = []
    lock, done = threading.Lock(), 0

    def score(answer: Answer) -> Answer:
        nonlocal done
        with lock:
            env = idle.pop() if idle else None
        env = env or registry.make_env(header.env, **header.env_options)
        judged = replay_actions(env, answer)
        with lock:
            idle.append(env)
            done += 1
            progress(done, len(answers))
        return judged

    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="areal-rescore") as threads:
        scored = list(threads.map(score, answers))
    for env in idle:
        env.close()
    return scored


def replay_actions(env: Any, answer: Answer) -> Answer:
    """Return an answer with what its actions earn in the environment now.

    An episode that ends sooner than it did is over there; one that would go on ends with its last action.
    """
    if answer.finish == FAILED:
        return answer
    reward, parts = 0.0, dict[str, float]()
    if answer.actions:
        env.reset(**answer.task)
    for action in answer.actions:
        _, earned, terminated, truncated, info = env.step(action)
        reward += float(earned)
        for name, value in (info.get("reward_parts") or {"reward": float(earned)}).items():
            parts[name] = parts.get(name, 0.0) + value
        if terminated or truncated:
            break
    return replace(answer, reward=reward, parts=parts)
