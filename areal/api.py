"""``areal.train``, ``areal.evaluate`` and ``areal.replay``: the commands, for use from Python."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from areal.config import Config, Layer, load_config, merged, merged_settings, parse_config, settings_on
from areal.errors import UserError
from areal.results import Evaluation, Run

if TYPE_CHECKING:
    from areal.evaluation.report import Report
    from areal.placement.inventory import Inventory
    from areal.runtime.plan import Plan
    from areal.runtime.replay import Replay
    from areal.runtime.resuming import ResumePoint
    from areal.workers.cluster import Cluster


def train(
    env: str | None = None,
    *,
    config: str | Path | Config | None = None,
    overrides: list[str] | None = None,
    resume: str | Path | None = None,
    show: bool = False,
    **settings: Any,
) -> Run:
    """Train a model in an environment, as ``areal train`` does.

    Args:
        env: Gymnasium id of the environment.
        config: a YAML file, or a configuration.
        overrides: ``key.sub=value`` strings, as on the command line.
        resume: a run directory; the run resumes from its last checkpoint, with its configuration.
        show: draw the live display.
        settings: fields of :class:`areal.config.Config`, such as ``model=...``, ``steps=50`` or
            ``rollout={"max_staleness": 1}``.

    Raises:
        UserError: bad input; the message says what to do.
        WorkerLost: an engine or a process of the learner died, and could not be replaced.
        Interrupted: Ctrl-C stopped the run; it wrote a checkpoint.
    """
    if env is not None:
        settings["env"] = env
    resolved = resolve(config, overrides, settings, resume)

    from areal.telemetry.run_directory import require_free_name
    from areal.telemetry.trackers.tracking import require_trackers

    # :func:`check` does this, too, but only once processes have started.
    _require_known_names(resolved)
    require_trackers(resolved.trackers)
    if resume is None:
        require_free_name(resolved)

    from areal.runtime.early import started_early

    with started_early(resolved) as early:
        with _loading(show):
            from areal.runtime.build import held_cluster  # takes seconds, while those processes import, too
            from areal.runtime.run import run_training

            start = None if resume is None else resume_point(resume, resolved)
        for line in start.notices if start is not None and show else ():
            print(f"warning: {line}", file=sys.stderr, flush=True)  # while Ctrl-C loses nothing
        with held_cluster(resolved) as cluster:
            with _loading(show):
                checked = replace(check(resolved, cluster=cluster), early=early)
            return _run(run_training(checked, None if resume is None else Path(resume), show, start))


def _loading(show: bool) -> AbstractContextManager[None]:
    """Show on a terminal that the imports of a run take seconds."""
    from areal.telemetry.progress import announced

    return announced("loading PyTorch, transformers and vLLM", sys.stderr if show else None)


def _require_known_names(config: Config) -> None:
    """Check that environment and agent exist, without loading those that are registered.

    Raises:
        UserError: one does not exist.
    """
    from areal.registry import agents, env_names, find_agent, find_env

    if config.env not in env_names():
        find_env(config.env)
    if config.agent not in agents.names():
        find_agent(config.agent)


def resume_point(run: str | Path, config: Config) -> ResumePoint:
    """Return the point at which a run would resume with a configuration, without changing anything.

    Raises:
        UserError: no such run, nothing to resume from, or nothing left to do.
    """
    from areal.runtime.resuming import find_resume_point
    from areal.telemetry.run_directory import RunDirectory

    return find_resume_point(RunDirectory.open(run), config)


def evaluate(
    env: str | None = None,
    model: str | Path | None = None,
    *,
    run: str | Path | None = None,
    config: str | Path | Config | None = None,
    overrides: list[str] | None = None,
    show: bool = False,
    **settings: Any,
) -> Report:
    """Measure the held-out accuracy of a model, as ``areal eval`` and the evaluations of a training run do.

    Args:
        env: Gymnasium id of the environment.
        model: hub id, folder (``RUN/model``), ``"starter"``, or the URL of an endpoint. Responses of an
            endpoint are kept.
        run: a run directory; its model, environment, agent and settings apply unless others are given.
        config: as in :func:`train`.
        overrides: as in :func:`train`.
        show: as in :func:`train`.
        settings: as in :func:`train`.

    Raises:
        UserError: bad input.
    """
    from areal.evaluation.endpoint import is_endpoint

    named = {"env": env, "model": None if model is None else str(model)}
    settings |= {name: value for name, value in named.items() if value is not None}
    if run is not None:
        settings, config, overrides = settings_of_run(run, config, overrides, settings), None, None
    resolved = resolve(config, overrides, settings, None, training=False)
    if is_endpoint(resolved.model):
        given = resolved.model_dump(mode="json", exclude_unset=True)
        return evaluate_benchmarks([], show=show, **given).reports[0]
    if not resolved.evaluation.problems:
        raise UserError("evaluation.problems=0 leaves nothing to evaluate; set a larger number")
    _require_known_names(resolved)

    from areal.runtime.early import started_early

    with started_early(resolved, training=False) as early:
        with _loading(show):
            from areal.runtime.build import held_cluster
            from areal.runtime.run import run_evaluation

        with held_cluster(resolved) as cluster:
            with _loading(show):
                checked = replace(check(resolved, training=False, cluster=cluster), early=early)
            return _run(run_evaluation(checked, show))


def evaluate_benchmarks(
    benchmarks: Sequence[str],
    model: str | Path | None = None,
    *,
    data: str | Path | None = None,
    run: str | Path | None = None,
    resume: str | Path | None = None,
    config: str | Path | None = None,
    overrides: list[str] | None = None,
    show: bool = False,
    **settings: Any,
) -> Evaluation:
    """Evaluate a model on benchmarks or in an environment, and keep every response.

    Args:
        benchmarks: names of the benchmarks; empty: the held-out problems of the setting ``env``.
        model: hub id, folder, run directory, checkpoint, or the URL of an OpenAI-compatible endpoint
            (``http://host:8000/v1#name``).
        data: a folder with a file for each benchmark, or the data of a single one; None: the sources of the
            benchmarks.
        run: a run directory, as in :func:`evaluate`; a benchmark uses only its model.
        resume: the folder of a stopped evaluation, which resumes with its settings; only ``placement`` and
            ``ray`` can be given in ``settings``.
        config: as in :func:`train`.
        overrides: as in :func:`train`.
        show: as in :func:`train`.
        settings: as in :func:`train`; they override the settings of a benchmark.

    Raises:
        UserError: bad input.
        Interrupted: Ctrl-C stopped the evaluation; the responses so far are kept.
    """
    from areal.envs.places import absolute
    from areal.evaluation.benchmark_data import find_benchmark
    from areal.recipes.choice import recipe_for

    if model is not None:
        settings["model"] = str(model)
    if run is not None:
        given = settings_of_run(run, config, overrides, settings, own_env=not benchmarks)
    else:
        given = merged_settings(config, overrides, settings)
        if not benchmarks and resume is None:  # a benchmark itself sets the length of responses
            given = settings_on(recipe_for(given, training=False), given)
    for name in benchmarks:
        find_benchmark(name)
    found = None if data is None else absolute(str(data))

    from areal.runtime.build import held_cluster
    from areal.runtime.evaluation_jobs import EvaluationRequest, make_jobs, open_evaluation
    from areal.runtime.evaluation_runner import run_jobs

    request, path = open_evaluation(
        EvaluationRequest(list(benchmarks), found, given), None if resume is None else Path(resume)
    )
    with ExitStack() as held:
        try:
            cluster = held.enter_context(held_cluster(parse_config(request.settings)))
            jobs = make_jobs(request, path, cluster)
        except UserError:
            if resume is None:  # an evaluation that cannot start leaves no folder
                shutil.rmtree(path)
            raise
        return Evaluation(path, _run(run_jobs(jobs, path, show)))


def serve(
    model: str | Path | None = None,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    record: Path | None = None,
    overrides: list[str] | None = None,
    show: bool = False,
) -> None:
    """Serve a model until a signal stops it, as ``areal serve`` does.

    Args:
        model: hub id, folder, run directory or checkpoint; None: the model that ships with areal.
        host: the address of this machine to listen on.
        port: the port to listen on; 0: any free port.
        record: a new file, to which each session is written as a line when it ends; None: sessions are not
            recorded.
        overrides: as in :func:`train`.
        show: print the address and the key.

    Raises:
        UserError: bad input.
        WorkerLost: the last engine has died.
        Interrupted: a signal stopped the server.
    """
    from areal.evaluation.endpoint import is_endpoint

    given = merged_settings(None, overrides, {} if model is None else {"model": str(model)})
    config = parse_config(settings_on(_served_as(str(given.get("model", ""))), given))
    if is_endpoint(config.model) or config.placement != "local":
        raise UserError(
            "`areal serve` runs a model on this machine; give a folder or a hub id, and no placement"
        )

    from areal.runtime.early import started_early

    with started_early(config, training=False) as early:
        from areal.runtime.plan import plan_serving
        from areal.runtime.serving import run_server

        _run(run_server(replace(plan_serving(config), early=early), host, port, record, show))


def _served_as(model: str) -> dict[str, Any]:
    """Return the settings with which a run serves its model; an empty dict for other models."""
    from areal.telemetry.run_directory import CONFIG

    if not (Path(model) / CONFIG).is_file():
        return {}
    kept = load_config(Path(model) / CONFIG).model_dump(mode="json")
    names = "temperature", "max_model_len", "max_new_tokens", "thinking_budget"
    rollout = {name: kept["rollout"][name] for name in names}
    chat = {name: kept["chat"][name] for name in ("template_kwargs", "keep_thoughts", "thought_end")}
    return {"engine": kept["engine"], "device": kept["device"], "rollout": rollout, "chat": chat}


def replay(
    run: str | Path,
    *,
    from_step: int = 1,
    overrides: list[str] | None = None,
    show: Callable[[str], None] = lambda line: None,
) -> Replay:
    """Train again on the batches that a run consumed, as ``areal replay`` does.

    With the settings of the run, the losses are identical (bitwise on a CPU); ``failed`` is true if they are
    not. Metrics are written to a new folder in ``RUN/replays``.

    Args:
        run: the run directory.
        from_step: the first update to compare; the replay starts at the last checkpoint before it, if there
            is one.
        overrides: learner settings to change, ``learner.key=value``, for a study on fixed data.
        show: called with each line of the report.

    Raises:
        UserError: no such run, nothing recorded, no such update, or the model's weights have changed.
    """
    from areal.runtime.replay import replay_run

    return replay_run(run, from_step, overrides or [], show)


def export(run: str | Path, folder: str | Path, *, step: int | Literal["best"] | None = None) -> Path:
    """Write the model of a run in Hugging Face format, as ``areal export`` does.

    Args:
        run: the run directory.
        folder: the folder to write, which must be new or empty.
        step: the number of an update that has a checkpoint; ``"best"``: the checkpoint with the best held-out
            score; None: the final model, or the last checkpoint if there is none.

    Raises:
        UserError: no such run or checkpoint, or the folder cannot be written.
    """
    from areal.runtime.export import export_model

    export_model(run, folder, step)
    return Path(folder)


def check(
    config: Config,
    training: bool = True,
    cluster: Cluster | None = None,
    inventory: Inventory | None = None,
) -> Plan:
    """Check environment, agent, model, device and memory.

    Args:
        config: the configuration of the run.
        training: whether there is a learner.
        cluster: the hosts that the run has reserved; None: this machine.
        inventory: the devices to plan for; None: the available ones.

    Raises:
        UserError: one of them is not available.
    """
    from areal.runtime.plan import plan

    return plan(config, training, inventory, cluster)


def resolve(
    config: str | Path | Config | None,
    overrides: list[str] | None,
    settings: dict[str, Any],
    resume: str | Path | None,
    training: bool = True,
) -> Config:
    """Return the configuration of a run: the resumed run's or a file's, with the other settings applied.

    Raises:
        UserError: wrong keys, types or sizes; no such run; no recipe for the model.
    """
    found = layers(config, overrides, settings, resume, training)
    source = None if config is None or isinstance(config, Config) else str(config)
    return parse_config(merged(found), source)


def layers(
    config: str | Path | Config | None,
    overrides: list[str] | None,
    settings: dict[str, Any],
    resume: str | Path | None,
    training: bool = True,
    inventory: Inventory | None = None,
) -> list[Layer]:
    """Return the layers that :func:`resolve` merges, with their origins; raises the same errors.

    Args:
        inventory: the devices for which a recipe is chosen; None: those of this machine.
    """
    given = merged_settings(None, overrides, settings)
    if resume is not None:
        from areal.telemetry.run_directory import RunDirectory

        if config is not None:
            raise UserError("a resumed run keeps its configuration; give overrides instead of a file")
        if "recipe" in given:
            raise UserError("a resumed run keeps its settings; remove the recipe")
        kept = merged_settings(RunDirectory.open(resume).path / "config.yaml")
        return [("the run", kept), ("command line", given)]
    if isinstance(config, Config):
        base = ("configuration", config.model_dump(mode="json", exclude_unset=True))
    else:
        base = (str(config), {} if config is None else merged_settings(config))
    from areal.recipes.choice import recipe_for

    recipe = recipe_for(settings_on(base[1], given), training, inventory)
    name = recipe.get("recipe") or given.get("recipe") or base[1].get("recipe")
    return [(f"recipe {name}", recipe), base, ("command line", given)]


def settings_of_run(
    run: str | Path,
    config: str | Path | Config | None,
    overrides: list[str] | None,
    settings: dict[str, Any],
    own_env: bool = True,
) -> dict[str, Any]:
    """Return the settings for evaluating a run's model: those of the run, overridden by the given ones.

    Args:
        run: its directory.
        config, overrides, settings: what was given, as in :func:`evaluate`.
        own_env: whether to evaluate in the environment of the run, with its agent, as the run does.

    Returns:
        A nested dict.

    Raises:
        UserError: no such run, or its configuration cannot be read.
    """
    from areal.telemetry.run_directory import RunDirectory

    path = RunDirectory.open(run).path
    kept = load_config(path / "config.yaml").model_dump(mode="json")
    taken = ["engine", "device"]
    if own_env:
        taken += ["env", "env_options", "agent", "agent_options", "chat", "rollout", "evaluation", "seed"]
        if not kept["evaluation"]["problems"]:  # the run was not evaluated, this one is
            del kept["evaluation"]["problems"]
    if isinstance(config, Config):
        settings, config = {**config.model_dump(exclude_unset=True), **settings}, None
    given = merged_settings(config, overrides, settings)
    for name in ("env", "agent"):
        if given.get(name, kept[name]) != kept[name]:  # options belong to one environment or agent
            kept[f"{name}_options"] = {}
    return settings_on({**{name: kept[name] for name in taken}, "model": str(path)}, given)


def _run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end, even if an event loop is already running (in a notebook)."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        return _run_on_thread(work)
    return asyncio.run(work)


def _run_on_thread(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on its own thread; Ctrl-C here cancels it there and waits for its end."""
    running: Future[asyncio.Task[Any]] = Future()

    async def main() -> Any:
        current = asyncio.current_task()
        assert current is not None
        running.set_result(current)
        return await work

    with ThreadPoolExecutor(1, thread_name_prefix="areal-run") as thread:
        outcome = thread.submit(asyncio.run, main())
        try:
            return outcome.result()
        except KeyboardInterrupt:
            task = running.result()
            task.get_loop().call_soon_threadsafe(task.cancel)
            raise
