"""Creates the parts of the rollout side from a configuration, in any process."""

from __future__ import annotations

from functools import partial
from typing import Any

from areal import registry
from areal.agents.tool_use import ToolUse
from areal.config import Config
from areal.errors import UserError
from areal.models import load_tokenizer
from areal.models.sight import load_sight
from areal.rollout.endpoint.server import EndpointServer
from areal.rollout.engine import Engine
from areal.rollout.env_calls import Make
from areal.rollout.environments import EnvironmentPool
from areal.rollout.opening import Opening
from areal.rollout.rendering import Renderer
from areal.rollout.worker import RolloutWorker
from areal.runtime.model_checks import eos_ids_of
from areal.workers.handle import Launch


def renderer_of(config: Config, model: str, agent: Any) -> Renderer:
    """Return the renderer of a run's conversations.

    Raises:
        UserError: the model's files cannot be read, or the agent's tools cannot be shown to the model.
    """
    tokenizer = load_tokenizer(model)
    eos, chat = eos_ids_of(model, tokenizer), config.chat
    renderer = Renderer(
        tokenizer, eos, chat.template_kwargs, chat.keep_thoughts, load_sight(model), chat.thought_end
    )
    if isinstance(agent, ToolUse):
        renderer.check_tools()
    return renderer


def rollout_worker_of(
    config: Config,
    renderer: Renderer,
    agent: Any,
    max_model_len: int,
    engine: Engine,
    launch_env: Launch | None = None,
) -> RolloutWorker:
    """Return a rollout worker on an engine; its environments are created when they are needed."""
    return RolloutWorker(
        engine,
        renderer,
        agent,
        environments(config, launch_env),
        max_model_len,
        EndpointServer(renderer.token_texts, config.rollout.temperature),
        opening_of(config),
    )


def environments(config: Config, launch_env: Launch | None = None) -> EnvironmentPool:
    """Return the pool of a run's environments, without creating one.

    Args:
        launch_env: starts a process for each of them; None: they are called on threads of this process.
    """
    if launch_env is None:
        make: Make = partial(registry.make_env, config.env, **config.env_options)
    else:
        make = registry.maker_elsewhere(config.env, config.env_options)
    rollout = config.rollout
    return EnvironmentPool(make, rollout.env_workers, rollout.env_time_limit, config.env, start=launch_env)


def env_isolation(config: Config, env: Any) -> str:
    """Return where environments are called, ``thread`` or ``process``, according to the setting or ``env``.

    Raises:
        UserError: the environment requests something else.
    """
    if config.rollout.env_isolation != "auto":
        return config.rollout.env_isolation
    members = getattr(env.unwrapped, "environments", None) or {"": env}  # members of a mixture
    asked = {str((member.metadata or {}).get("isolation", "thread")) for member in members.values()}
    if unknown := asked - {"thread", "process"}:
        raise UserError(
            f"environment '{config.env}': metadata['isolation'] is {unknown.pop()!r}; set it to thread or "
            "process"
        )
    return "process" if "process" in asked else "thread"


def opening_of(config: Config) -> Opening:
    """Return the opening of a run's conversations."""
    return Opening(config.chat.system, tuple(dict(message) for message in config.chat.examples))
