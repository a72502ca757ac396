"""Runs in the process of one environment, and makes its calls on the main thread, one after the other."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from areal import faults
from areal.errors import EnvironmentFailure, UserError, explained
from areal.rollout.env_calls import Make
from areal.spans import Span, collect
from areal.threads import tried

log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """The outcome of a call.

    Attributes:
        result: a pickle of what the call returned.
        wrong: description of the error, which follows the name of the call; empty: there is none.
        trace: the traceback of the error, if there is one.
        faults: number of failures of the infrastructure in this process so far (areal/faults.py).
        spans: the timeline of the call.
    """

    result: bytes
    wrong: str
    trace: str
    faults: dict[str, int]
    spans: Sequence[Span] = ()


class EnvWorker:
    """One environment in its own process, in which it is created and closed."""

    def __init__(self) -> None:
        self._env: Any = None

    def make(self, make: Make) -> Answer:
        """Create the environment."""

        def keep() -> None:
            self._env = make()

        return _answer(keep)

    def call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Answer:
        """Call a method of the environment."""
        return _answer(lambda: getattr(self._env, method)(*args, **kwargs))

    def close(self) -> None:
        """Close the environment. Its exceptions are written to standard error."""
        if self._env is not None:
            _, error = tried(self._env.close)
            if error is not None:
                log.warning("close raised %s", explained(error, __file__))


def _answer(call: Callable[[], Any]) -> Answer:
    """Make a call. A UserError or an EnvironmentFailure is raised unchanged."""
    spans: list[Span] = []
    with collect(spans):
        result, error = tried(call)
    if isinstance(error, UserError | EnvironmentFailure):
        raise error
    if error is not None:
        trace = "".join(traceback.format_exception(error))
        return Answer(b"", f"raised {explained(error, __file__)}", trace, faults.counts())
    if error := _refusal(result):
        return Answer(
            b"",
            f"returned {_culprit(result)}, which cannot be sent to another process: {error}",
            "",
            faults.counts(),
        )
    return Answer(pickle.dumps(result), "", "", faults.counts(), spans)


def _refusal(value: Any) -> Exception | None:
    """Return why a value cannot be sent to another process."""
    _, error = tried(lambda: pickle.dumps(value))
    return error if isinstance(error, Exception) else None


def _culprit(result: Any, place: str = "") -> str:
    """Return the smallest part of a result that cannot be sent, such as ``info['board'] (a Lock)``."""
    named = ("observation", "reward", "terminated", "truncated", "info")
    if isinstance(result, tuple) and not place:
        names = named if len(result) == len(named) else ("observation", "info")
        parts = list(zip(names, result, strict=False))
    elif isinstance(result, Mapping):
        parts = [(f"{place}[{key!r}]", value) for key, value in result.items()]
    else:
        parts = []
    for name, value in parts:
        if _refusal(value) is not None:
            return _culprit(value, name)
    return f"{place or 'a result'} (a {type(result).__name__})"
