"""The page over HTTP: its files, and its data as JSON. No input of a client becomes a path."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from areal.errors import UserError
from areal.viewer.assets import TYPES, read_assets
from areal.viewer.evaluations import Comparisons, WatchedEvaluation
from areal.viewer.index import Query, Sort
from areal.viewer.prometheus import CONTENT_TYPE, exposition
from areal.viewer.sessions import WatchedSessions
from areal.viewer.timeline import Window
from areal.viewer.watched import Watched, WatchedRun

_LIMIT = 200
"""Maximum number of rollouts in one answer."""
_LARGEST = 2**53
"""Largest exact integer in JavaScript."""
_SORTS: tuple[Sort, ...] = ("step", "reward", "tokens", "staleness", "part")


class Quiet:
    """Tracks whether anybody waits for an answer, so that background work does not slow it down."""

    def __init__(self) -> None:
        self._asked = 0
        self._free = threading.Event()
        self._free.set()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Mark an answer as in progress; only used on the thread of the event loop."""
        self._asked += 1
        self._free.clear()
        try:
            yield
        finally:
            self._asked -= 1
            if not self._asked:
                self._free.set()

    def __call__(self) -> bool:
        """Return whether nobody waits for an answer."""
        return self._free.is_set()

    def wait(self, seconds: float) -> None:
        """Wait until nobody waits for an answer, at most this number of seconds."""
        self._free.wait(seconds)


def make_app(watched: Sequence[Watched], quiet: Quiet | None = None) -> Starlette:
    """Return the application that shows the watched items; ``quiet`` is told when somebody waits."""
    quiet = quiet or Quiet()
    assets = read_assets()
    runs = {each.name: each for each in watched if isinstance(each, WatchedRun)}
    evaluations = {each.name: each for each in watched if isinstance(each, WatchedEvaluation)}
    sessions = {each.name: each for each in watched if isinstance(each, WatchedSessions)}
    comparisons = Comparisons()

    def run_of(request: Request) -> WatchedRun:
        name = request.query_params.get("run", "")
        if name not in runs:
            raise UserError(f"no such run: {name}")
        return runs[name]

    def evaluation_of(request: Request, parameter: str) -> WatchedEvaluation:
        name = request.query_params.get(parameter, "")
        if name not in evaluations:
            raise UserError(f"no such evaluation: {name}")
        return evaluations[name]

    def listing_of(request: Request) -> Watched:
        name = request.query_params.get("run", "")
        if name in sessions:
            return sessions[name]
        return run_of(request) if name in runs else evaluation_of(request, "run")

    async def asset(request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in assets:
            raise HTTPException(404, "there is no such file")
        return Response(assets[name], media_type=TYPES[Path(name).suffix])

    def answer(make: Callable[[Request], Any]) -> Route:
        async def endpoint(request: Request) -> Response:
            try:
                with quiet.answering():
                    return await run_in_threadpool(lambda: _json(make(request)))
            except UserError as error:
                return _json({"error": str(error)}, 404)

        return Route(f"/api/{make.__name__}", endpoint, name=make.__name__)

    def states(request: Request) -> Any:
        return {
            "runs": [run.state() for run in runs.values()],
            "evaluations": [each.state() for each in evaluations.values()],
            "sessions": [each.state() for each in sessions.values()],
        }

    def settings(request: Request) -> Any:
        return {each.name: each.settings() for each in watched}

    def metrics(request: Request) -> Any:
        mark = request.query_params.get("mark", "")
        return run_of(request).outline() if mark == "outline" else run_of(request).metrics(mark)

    def rollouts(request: Request) -> Any:
        given = request.query_params
        limit = int(_number(request, "limit", 50))
        skip = int(_number(request, "skip", 0))
        if not (1 <= limit <= _LIMIT and skip >= 0):
            raise HTTPException(400, f"limit must be 1 to {_LIMIT}, and skip must be at least 0")
        return listing_of(request).find(query_of(request), limit, skip, given.get("text", ""))

    def timeline(request: Request) -> Any:
        given = request.query_params
        wanted: Window = "all"
        if given.get("from") or given.get("to"):
            wanted = int(_number(request, "from", 0)), int(_number(request, "to", _LARGEST))
        elif given.get("last"):
            wanted = _number(request, "last", 0)
        return run_of(request).timeline(wanted)

    def group(request: Request) -> Any:
        step, number = int(_number(request, "step", 0)), request.query_params.get("number")
        one = None if number is None else int(_number(request, "number", 0))
        return listing_of(request).group(step, int(_number(request, "group", 0)), one)

    def comparison(request: Request) -> Any:
        a, b = evaluation_of(request, "a"), evaluation_of(request, "b")
        return comparisons.compare(a, b, request.query_params.get("benchmark", ""))

    def prompts(request: Request) -> Any:
        problems = request.query_params.get("problems", "").split(",")
        if len(problems) > _LIMIT or not all(text.isdecimal() and len(text) < 16 for text in problems):
            raise HTTPException(400, f"problems must be up to {_LIMIT} numbers, separated by commas")
        step = int(_number(request, "step", 1))
        return evaluation_of(request, "run").prompts(step, list(map(int, problems)))

    async def prometheus(request: Request) -> Response:
        return Response(await run_in_threadpool(exposition, list(runs.values())), media_type=CONTENT_TYPE)

    routes = [Route("/", asset), Route("/assets/{name:path}", asset), Route("/metrics", prometheus)]
    routes += [
        answer(make) for make in (states, settings, metrics, rollouts, group, timeline, comparison, prompts)
    ]
    return Starlette(routes=routes)


def query_of(request: Request) -> Query:
    """Read which rollouts are requested; raises HTTPException if the query is invalid."""
    given = request.query_params
    whole = Query()
    sort = next((name for name in _SORTS if name == given.get("sort", "step")), None)
    if sort is None:
        raise HTTPException(400, f"sort must be one of {', '.join(_SORTS)}")
    return Query(
        (
            int(_number(request, "from", whole.steps[0])),
            int(_number(request, "to", whole.steps[1])),
        ),
        (_number(request, "least", whole.rewards[0]), _number(request, "most", whole.rewards[1])),
        given.get("part", ""),
        (_number(request, "part_least", whole.values[0]), _number(request, "part_most", whole.values[1])),
        given.get("env", ""),
        given.get("finish", ""),
        sort,
        given.get("descending") == "1",
        given.get("changed") == "1",
    )


def _number(request: Request, name: str, default: float) -> float:
    text = request.query_params.get(name)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError as error:
        raise HTTPException(400, f"{name} must be a number") from error
    if not abs(value) <= _LARGEST:
        raise HTTPException(400, f"{name} must be a number of at most {_LARGEST}")
    return value


def _json(data: Any, status: int = 200) -> Response:
    return Response(json.dumps(data, allow_nan=False), status, media_type="application/json")
