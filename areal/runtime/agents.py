"""Creates an agent from its name, and reports all errors before anything starts."""

from __future__ import annotations

import inspect
from typing import Any

from areal import registry
from areal.agents.program import Program, check_function
from areal.config import Config
from areal.config.synonyms import RENAMED
from areal.errors import UserError, explained
from areal.rollout.endpoint.server import require_framework


def make_agent(config: Config) -> Any:
    """Return the agent by its name; an async function is a program.

    Raises:
        UserError: there is no agent of that name, it does not accept the options, or it is not an agent.
    """
    found, options = registry.find_agent(config.agent), dict(config.agent_options)
    if inspect.iscoroutinefunction(found):
        found, options = Program, {"function": found, **options}
    if not callable(found):
        raise UserError(
            f"agent '{config.agent}' is {_kind(found)}; name a class with 'async def run(self, env, "
            "model)', or an async function"
        )
    if not inspect.isclass(found) and _is_program(found):
        check_function(found)
    try:
        inspect.signature(found).bind(**options)
    except (TypeError, ValueError) as error:
        for key in RENAMED.keys() & {f"agent_options.{option}" for option in options}:
            raise UserError(f"'{key}' was renamed; use '{RENAMED[key]}' instead") from error
        raise UserError(f"agent '{config.agent}': {error}") from error
    try:
        agent = found(**options)
    except UserError:
        raise
    except Exception as error:  # third-party agents may raise anything
        raise UserError(f"agent '{config.agent}' raised {explained(error, __file__)}") from error
    _check(config.agent, agent)
    if isinstance(agent, Program):
        require_framework()
        if config.chat.system is not None or config.chat.examples:
            raise UserError(
                "chat.system and chat.examples do not apply to a program, which begins its conversations "
                "itself; remove them"
            )
    return agent


def takes_steps(agent: Any) -> bool:
    """Return whether an agent steps its environment; a program may set its reward itself instead."""
    return not isinstance(agent, Program)


def _check(name: str, agent: Any) -> None:
    """Check that an object is an agent, with the signature of one."""
    run = getattr(agent, "run", None)
    if not inspect.iscoroutinefunction(run):
        what = "no method run" if run is None else "a method run that is not 'async def'"
        raise UserError(
            f"agent '{name}' creates {_kind(agent)} with {what}; an agent needs 'async def run(self, env, "
            "model)'"
        )
    try:
        inspect.signature(run).bind(None, None)
    except TypeError as error:
        raise UserError(f"agent '{name}' cannot be called as run(env, model): {error}") from error


def _is_program(function: Any) -> bool:
    """Return whether a function has the signature of a program, and does not create an agent."""
    try:
        inspect.signature(function).bind("task", base_url="", api_key="")
    except (TypeError, ValueError):
        return False
    return True


def _kind(value: Any) -> str:
    return "a module" if inspect.ismodule(value) else f"an object of type {type(value).__name__}"
