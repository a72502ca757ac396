"""Rescores the responses of an evaluation without sampling, after a verifier or its options have changed.

The recorded actions are repeated in the environment, from the same reset, and the new reward is the new
score. The old files are not changed.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

from areal import registry
from areal.errors import UserError
from areal.evaluation.benchmark_data import digest_of
from areal.evaluation.report import Report, report_of, write_reports
from areal.evaluation.responses import FAILED, Header, Response, read_responses, write_responses

_WORKERS = 8


@dataclass(frozen=True, slots=True)
class Rescored:
    """The result of rescoring.

    Attributes:
        path: the folder of the new files.
        reports: the report of each evaluation, with the new scores.
        changed: for each evaluation, the responses that changed, before and after.
    """

    path: Path
    reports: list[Report]
    changed: dict[str, list[tuple[Response, Response]]]


def response_files(run: Path) -> list[Path]:
    """Return the response files of an evaluation folder, or the given file; raises UserError if none."""
    if run.is_file():
        return [run]
    if (run / "config.yaml").is_file():
        raise UserError(
            f"{run} is a training run; evaluate its model with `areal eval {run} --name NAME`, and give the "
            "folder of the evaluation; `areal view` shows the learning curves of several runs together"
        )
    if not run.exists():
        raise UserError(f"{run} does not exist; give the folder of an evaluation")
    found = sorted(run.glob("*.jsonl"))
    if not found:
        raise UserError(f"{run} is not an evaluation: it has no file of responses (NAME.jsonl)")
    return found


def read_whole(path: Path) -> tuple[Header, list[Response]]:
    """Return the header and all responses of an evaluation; raises UserError if it is not finished."""
    header, responses = read_responses(path)
    wanted = [(p, s) for p in range(header.problems) for s in range(header.samples)]
    if [(r.problem, r.sample) for r in responses] != wanted:
        raise UserError(
            f"{path} has {len(responses)} of {len(wanted)} responses; finish it with "
            f"`areal eval --resume {path.parent}`"
        )
    return header, responses


def rescore(run: Path, options: dict[str, Any]) -> Rescored:
    """Score all responses of an evaluation again.

    Args:
        run: the folder of the evaluation, or a file in it.
        options: options of the environments, which override those of the evaluation.

    Raises:
        UserError: there is no such evaluation, it is not finished, or its problems have changed.
    """
    folder = _new_folder(run)
    evaluations = [(path, *read_whole(path)) for path in response_files(run)]
    reports, changed = [], {}
    for path, header, responses in evaluations:
        header = replace(header, env_options={**header.env_options, **options})
        _check_data(header)
        scored = _scored(header, responses)
        folder.mkdir(exist_ok=True)
        write_responses(folder / path.name, header, scored)
        reports.append(report_of(header, scored, seconds=0.0))
        changed[header.name] = [
            pair for pair in zip(responses, scored, strict=True) if pair[0].reward != pair[1].reward
        ]
    write_reports(folder, reports)
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
            f"the problems of '{header.name}' in {path} are no longer those of the evaluation; give a file "
            "that has them with env_options.data=FILE env_options.test_data=FILE"
        )


def _scored(header: Header, responses: list[Response]) -> list[Response]:
    idle: SimpleQueue[Any] = SimpleQueue()

    def score(response: Response) -> Response:
        try:
            env = idle.get_nowait()
        except Empty:
            env = registry.make_env(header.env, **header.env_options)
        judged = replay_actions(env, response)
        idle.put(env)
        return judged

    with ThreadPoolExecutor(_WORKERS, thread_name_prefix="areal-rescore") as threads:
        scored = list(threads.map(score, responses))
    while not idle.empty():
        idle.get().close()
    return scored


def replay_actions(env: Any, response: Response) -> Response:
    """Return a response with the reward that its actions earn in the environment now.

    An episode that ends earlier than before ends there; one that would continue ends with its last action.
    """
    if response.finish == FAILED:
        return response
    reward, parts = 0.0, dict[str, float]()
    if response.actions:
        env.reset(**response.task)
    for action in response.actions:
        _, earned, terminated, truncated, info = env.step(action)
        reward += float(earned)
        for name, value in (info.get("reward_parts") or {"reward": float(earned)}).items():
            parts[name] = parts.get(name, 0.0) + value
        if terminated or truncated:
            break
    return replace(response, reward=reward, parts=parts)
