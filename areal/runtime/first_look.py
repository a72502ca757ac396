"""Checks an environment once before anything heavy is started: whether it is suitable for a model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import wait
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

from areal.agents.interface import BadRequest
from areal.envs.pictures import content_of, may_show_picture, shows_picture
from areal.envs.words import not_in_words
from areal.errors import EnvironmentFailure, UserError, explained
from areal.rollout.environments import is_number
from areal.rollout.messages import normal, pictures
from areal.rollout.opening import wrong_messages
from areal.rollout.tasks import TaskSource, held_out
from areal.threads import CallThread

log = logging.getLogger(__name__)

_ANSWER = "?"
"""An answer to no problem. Before the engines start, it reveals a verifier that always raises."""
_GRACE = 10.0
"""Time limit for closing an environment, in seconds."""


class Look(NamedTuple):
    """What a first look has seen.

    Attributes:
        pictures: whether the environment shows images, in this reset or, according to its observation space,
            later.
        goes_on: whether an episode continued after the first answer.
    """

    pictures: bool
    goes_on: bool


def look_at(
    env: Any, name: str, problems: int, training: bool, time_limit: float, steps: bool = True
) -> Look:
    """Reset an environment once, answer once, and close it; for a mixture, each of its members.

    Resources that the calls have opened, such as a session of a server, a browser or a container, are not
    kept for the run. The run uses other instances and begins with its first problem. This instance later only
    provides its problems and its notices.

    Args:
        env: a new environment.
        problems: number of required held-out problems; 0: none.
        time_limit: time limit of a call, in seconds.
        steps: whether the agent steps it, so that a step is tried, too; an environment without steps of its
            own (NotImplementedError) is only reset.

    Raises:
        UserError: its observations or actions are not text, or it has no training or evaluation problems.
        EnvironmentFailure: it raised, exceeded the time limit, or returned an invalid value, such as an image
            that cannot be shown or a reward that is not a number.
    """
    source = TaskSource(env, 0) if training else None  # raises if there are no training problems
    held = held_out(env, min(problems, 1))
    if problems and not held:
        raise UserError(
            f"environment '{name}' has no held-out problems; add some (env_options.test_data, if it has "
            f"data){', or turn evaluation off with evaluation.problems=0' if training else ''}"
        )
    if members := getattr(env.unwrapped, "environments", None):  # of a mixture
        seen = [look_at(member, label, 0, training, time_limit, steps) for label, member in members.items()]
        return Look(any(look.pictures for look in seen), any(look.goes_on for look in seen))
    task = source.task(0) if source is not None else next(iter(held), {"seed": 0})
    with _calls(env, name, time_limit) as call:
        what = f"environment '{name}': reset in the task {task}"
        observation, info = _opening(call(what, partial(env.reset, **task)), what)
        if wrong := not_in_words(env, observation, name):
            raise UserError(f"environment '{name}': {wrong}")
        if "messages" in info and (wrong := wrong_messages(info["messages"])):
            raise EnvironmentFailure(f"{what} returned info['messages'], which {wrong}")
        try:
            content_of(observation)
            shown = pictures(map(normal, info.get("messages", ())))
        except (UserError, BadRequest) as error:
            raise EnvironmentFailure(f"{what}: {error}") from error
        goes_on = False
        if steps:
            what = f"environment '{name}': step({_ANSWER!r}) in the task {task}"
            goes_on = _check_step(call(what, partial(_step, env)), what)
    declared = may_show_picture(getattr(env, "observation_space", None))
    return Look(declared or shows_picture(observation) or bool(shown), goes_on)


def _opening(given: Any, what: str) -> tuple[Any, Mapping[str, Any]]:
    if not isinstance(given, tuple) or len(given) != 2 or not isinstance(given[1], Mapping):
        raise EnvironmentFailure(f"{what} did not return (observation, info)")
    return given


def _step(env: Any) -> Any:
    """Answer once; None: it has no steps of its own, so its agents set the rewards."""
    try:
        return env.step(_ANSWER)
    except NotImplementedError:
        return None


def _check_step(given: Any, what: str) -> bool:
    """Return whether the episode goes on."""
    if given is None:
        return False
    if not isinstance(given, tuple) or len(given) != 5 or not isinstance(given[4], Mapping):
        raise EnvironmentFailure(f"{what} did not return (observation, reward, terminated, truncated, info)")
    if not is_number(given[1]):
        raise EnvironmentFailure(f"{what} returned the reward {given[1]!r}, which is not a finite number")
    return not (given[2] or given[3])


@contextmanager
def _calls(env: Any, name: str, time_limit: float) -> Iterator[Callable[[str, Callable[[], Any]], Any]]:
    """Yield a function that makes a named call within the time limit; close the environment afterwards.

    An environment that hangs is not closed.
    """
    thread, hangs = CallThread("areal-first-look"), False

    def call(what: str, work: Callable[[], Any]) -> Any:
        nonlocal hangs
        outcome = thread.start(work)
        if wait([outcome], time_limit).not_done:
            hangs, location = True, thread.location(__file__)
            thread.give_up()
            raise EnvironmentFailure(
                f"{what} has not returned after {time_limit:g} s (rollout.env_time_limit); it is at "
                f"{location}"
            )
        found, error = outcome.result()
        if isinstance(error, UserError | EnvironmentFailure):
            raise error
        if error is not None:
            raise EnvironmentFailure(f"{what} raised {explained(error, __file__)}") from error
        return found

    try:
        yield call
    finally:
        if not hangs:
            _close(env, name, thread)


def _close(env: Any, name: str, thread: CallThread) -> None:
    """Close an environment; a failure is logged, as at the end of a run."""
    closed = thread.start(env.close)
    if wait([closed], _GRACE).not_done:
        location = thread.location(__file__)
        thread.give_up()
        log.warning(
            "environment '%s': close has not returned after %g s; it is at %s", name, _GRACE, location
        )
        return
    thread.end()
    _, error = closed.result()
    if error is not None:
        log.warning("environment '%s': close raised %s", name, explained(error, __file__))
