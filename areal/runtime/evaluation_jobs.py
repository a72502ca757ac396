"""The parts of a stored evaluation: a request, a folder, and a checked job for each benchmark."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from areal import registry
from areal.config import Config, parse_config, settings_on
from areal.disk import write_whole
from areal.errors import UserError
from areal.evaluation.benchmark import Benchmark
from areal.evaluation.benchmark_data import find_benchmark, find_data
from areal.evaluation.endpoint import is_endpoint
from areal.evaluation.report import sampling_settings
from areal.evaluation.responses import Header
from areal.models import resolve_model
from areal.models.loading import context_limit
from areal.rollout.engine import Sampling
from areal.rollout.tasks import held_out
from areal.runtime.agents import make_agent, takes_steps
from areal.runtime.first_look import look_at
from areal.runtime.model_checks import check_sight
from areal.runtime.plan import Plan, plan
from areal.runtime.sampling import evaluation_sampling
from areal.telemetry.run_directory import dated_name, new_folder, slug
from areal.workers.cluster import Cluster

_REQUEST = "evaluation.json"
_PROMPT_ROOM = 4096
"""Number of tokens for a benchmark's question, beyond the longest response, if the model allows it."""


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """The request of an evaluation.

    Attributes:
        benchmarks: names of benchmarks; empty: the environment in the settings.
        data: a file or folder with their problems; None: their own sources.
        settings: nested settings, as given by the user.
    """

    benchmarks: list[str]
    data: str | None
    settings: dict[str, Any]


@dataclass(frozen=True, slots=True)
class EvaluationJob:
    """One evaluation of a request; ``plan`` is None if the model is behind an endpoint."""

    header: Header
    config: Config
    env: Any
    agent: Any
    plan: Plan | None

    @property
    def file(self) -> str:
        """The name of the file of its responses."""
        return f"{slug(self.header.name)}.jsonl"

    @property
    def sampling(self) -> Sampling:
        """The sampling settings."""
        return evaluation_sampling(self.config)

    @property
    def tasks(self) -> list[dict[str, Any]]:
        """The tasks of its problems."""
        return held_out(self.env, self.header.problems)


def open_evaluation(request: EvaluationRequest, resume: Path | None) -> tuple[EvaluationRequest, Path]:
    """Create the folder of an evaluation, or find the one to resume; return it with its request.

    Raises:
        UserError: the folder does not exist or cannot be written.
    """
    if resume is not None:
        if not resume.exists():
            raise UserError(f"{resume} does not exist; give the folder of an evaluation")
        try:
            found = EvaluationRequest(**json.loads((resume / _REQUEST).read_text(encoding="utf-8")))
            return replace(found, settings=settings_on(found.settings, request.settings)), resume.resolve()
        except (OSError, ValueError, TypeError) as error:
            raise UserError(
                f"{resume} is not an evaluation that can be resumed: it has no valid {_REQUEST}"
            ) from error
    config = parse_config(request.settings)
    root = config.output / "eval"
    names = request.benchmarks or [config.env]
    model = Path(config.model.partition("#")[2] or config.model).name
    try:
        root.mkdir(parents=True, exist_ok=True)
        path = new_folder(root, config.name, dated_name(*names, model), "eval")
    except OSError as error:
        raise UserError(
            f"cannot write to {root}: {error.strerror}; choose another folder with output=FOLDER"
        ) from error
    write_whole(path / _REQUEST, [json.dumps(asdict(request), indent=1)])
    return request, path.resolve()


def make_jobs(
    request: EvaluationRequest, folder: Path, cluster: Cluster | None = None
) -> list[EvaluationJob]:
    """Check a request: data, environments, agents, model; nothing is started.

    Args:
        cluster: the hosts that the evaluation holds; None: only this machine.

    Raises:
        UserError: one of them is not available.
    """
    names = request.benchmarks
    if len(set(names)) < len(names):
        raise UserError(f"a benchmark is named twice: {', '.join(names)}; name each once")
    if not names:
        return [_job(parse_config(request.settings), cluster)]
    if "env" in request.settings:
        raise UserError("a benchmark has its own environment; give --benchmark or --env, not both")
    if "max_new_tokens" in request.settings.get("rollout", {}):
        raise UserError(
            "a benchmark sets its own maximum response length; set evaluation.max_new_tokens instead of "
            "rollout.max_new_tokens"
        )
    jobs = []
    for name in names:
        benchmark = find_benchmark(name)
        data = find_data(benchmark, request.data, folder / "data")
        config = parse_config(settings_on(benchmark.settings(data.path), request.settings))
        jobs.append(_job(config, cluster, benchmark, data.source, data.digest))
    return jobs


def _job(
    config: Config,
    cluster: Cluster | None,
    benchmark: Benchmark | None = None,
    source: str = "",
    digest: str = "",
) -> EvaluationJob:
    if not config.evaluation.problems:
        raise UserError("evaluation.problems=0 leaves nothing to evaluate; set a larger number")
    checked = None
    if is_endpoint(config.model):
        if config.placement != "local":
            raise UserError(
                f"model={config.model} is an endpoint, which runs elsewhere; remove "
                f"placement={config.placement}"
            )
        if config.chat.keep_thoughts:
            raise UserError(
                f"model={config.model} is an endpoint, which applies its own chat template; remove "
                "chat.keep_thoughts"
            )
        if config.rollout.thinking_budget is not None:
            raise UserError(
                f"model={config.model} is an endpoint, and areal cannot end the thoughts that another "
                "server samples; set rollout.thinking_budget=null"
            )
        env, agent = registry.make_env(config.env, **config.env_options), make_agent(config)
        problems, limit = config.evaluation.problems, config.rollout.env_time_limit
        if look_at(env, config.env, problems, False, limit, takes_steps(agent)).pictures:
            check_sight(config.env, agent)
    else:
        checked = plan(config if benchmark is None else _fitted(config), training=False, cluster=cluster)
        config, env, agent = checked.config, checked.env, checked.agent
    asked = len(held_out(env, config.evaluation.problems))
    header = Header(
        name=registry.env_label(config.env) if benchmark is None else benchmark.label,
        env=config.env,
        env_options=_plain(config.env_options),
        agent=config.agent,
        agent_options=_plain(config.agent_options),
        model=config.model,
        problems=asked,
        samples=config.evaluation.samples,
        seed=config.seed,
        sampling=_plain(sampling_settings(evaluation_sampling(config))),
        source=source,
        data=digest,
        chat=_plain(config.model_dump(mode="json", exclude_defaults=True).get("chat", {})),
        of=None if benchmark is None or benchmark.part else benchmark.problems,
    )
    return EvaluationJob(header, config, env, agent, checked)


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return values in the form of a file."""
    return json.loads(json.dumps(values))


def _fitted(config: Config) -> Config:
    """Provide the context length that a benchmark's longest response needs, or the maximum of the model."""
    longest, response = config.rollout.max_model_len, config.evaluation.max_new_tokens
    if longest is None and response is not None:
        limit = context_limit(resolve_model(config.model))
        longest = min(limit or response + _PROMPT_ROOM, response + _PROMPT_ROOM)
        data = settings_on(
            config.model_dump(mode="json"),
            {
                "rollout": {"max_model_len": longest},
                "evaluation": {"max_new_tokens": min(response, longest - 1)},
            },
        )
        return parse_config(data)
    return config
