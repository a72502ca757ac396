"""``areal serve``: serves a model at the endpoint, outside of training, until a signal."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from areal.disk import one_line
from areal.errors import EngineLost, Interrupted, UserError
from areal.listening import in_url, listen
from areal.rollout.endpoint.refusals import Refusals
from areal.rollout.endpoint.server import SIGN_EVERY, make_uvicorn, without_delay
from areal.rollout.endpoint.serving import ServedKey, ServedRecorder, ServedSession, Sessions
from areal.rollout.engine import Sampling
from areal.rollout.engines import Engines
from areal.rollout.rendering import Renderer
from areal.runtime.build import start_served
from areal.runtime.heartbeat import heartbeat
from areal.runtime.plan import Plan, max_concurrent
from areal.runtime.signals import abandoned_on_signal, on_signals
from areal.telemetry.logs import capture
from areal.telemetry.progress import Progress
from areal.telemetry.run_directory import json_line
from areal.trajectory import Episode, Group

_MAX_COMPLETIONS = 2**62
"""Limit of a session, which ends long before it; see :class:`Sessions`."""
_MAX_IN_FLIGHT = 4096
"""Maximum concurrent calls of a session; if the engines cannot take all of them, calls wait."""
_MAX_REQUEST_BYTES = 32 * 2**20


async def run_server(plan: Plan, host: str, port: int, record: Path | None, show: bool) -> None:
    """Serve according to the plan until Ctrl-C, SIGTERM or SIGHUP.

    Args:
        host: an address of this machine.
        port: the port; 0: a free one.
        record: a new file with a line for each ended session; None: nothing is recorded.

    Raises:
        UserError: the address cannot be used, or the file cannot be written.
        EngineLost: the last engine was lost.
        Interrupted: at the end.
    """
    with (
        without_delay(listen(host, port)) as listening,
        Record(record, plan.model) as written,
        capture(None) as terminal,
        Progress(0, f"areal serve · {plan.config.model}", show, terminal) as progress,
    ):
        for line in plan.summary:
            progress.message(line)
        progress.status("starting vLLM")
        async with abandoned_on_signal():
            engines, renderer = await start_served(plan)
        try:
            async with heartbeat(terminal):
                await _serve(plan, engines, renderer, listening, host, written, progress.message)
        finally:
            await engines.close()


async def _serve(
    plan: Plan,
    engines: Engines,
    renderer: Renderer,
    listening: socket.socket,
    host: str,
    written: Record,
    say: Callable[[str], None],
) -> None:
    from areal.rollout.endpoint.app import make_app

    temperature = plan.config.rollout.temperature
    rollout = plan.config.rollout
    sampling = Sampling(
        plan.max_model_len, temperature, stop=rollout.stop, thinking_budget=rollout.thinking_budget
    )
    unwritten: list[UserError] = []
    over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def start() -> tuple[ServedRecorder, ServedSession]:
        model = ServedRecorder(engines, renderer, sampling, plan.max_model_len)
        session = ServedSession(
            model,
            renderer.token_texts,
            temperature,
            _MAX_COMPLETIONS,
            max_sampling=max_concurrent(plan.config),
            max_in_flight=_MAX_IN_FLIGHT,
        )
        return model, session

    def end(error: BaseException) -> None:
        if not over.done():
            over.set_exception(error)

    def ended(served: ServedKey) -> None:
        try:
            written.add(served)
        except UserError as error:
            unwritten.append(error)
            end(error)

    def lost(name: str, engine: Any, error: EngineLost) -> None:
        say(f"warning: {name} was lost: {error}")
        if not engines.engines:
            end(error)

    key = f"sk-areal-{secrets.token_urlsafe(32)}"
    sessions = Sessions(key, start, ended)
    server = make_uvicorn(make_app(sessions.of_key, Refusals(), _MAX_REQUEST_BYTES, SIGN_EVERY))
    engines.on_lost = lost
    release = on_signals(lambda: end(Interrupted("stopped")), lambda: end(Interrupted("stopped")))
    tasks = [asyncio.ensure_future(server.serve([listening])), asyncio.ensure_future(sessions.run())]
    try:
        say(f"base_url: {_url(listening, host)}/v1\napi_key: {key}\nCtrl-C stops the server")
        await over
    finally:
        release()
        tasks[1].cancel()
        await sessions.close()
        server.should_exit = True
        await asyncio.gather(*tasks, return_exceptions=True)
        if unwritten:  # even if that happened at the very end
            raise unwritten[0]


def _url(listening: socket.socket, host: str) -> str:
    address, port = listening.getsockname()[:2]
    everywhere = ipaddress.ip_address(address).is_unspecified
    return f"http://{socket.gethostname() if everywhere else in_url(host)}:{port}"


@dataclass
class Record:
    """The file of ended sessions; a context manager.

    Each line is a group of one episode, in the form of a run's ``rollouts/``, plus the model.
    """

    path: Path | None
    model: str
    count: int = 0
    _file: IO[str] | None = None

    def __enter__(self) -> Record:
        if self.path is not None:
            try:
                self._file = self.path.open("x", encoding="utf-8")
            except FileExistsError as error:
                raise UserError(f"--record {self.path} already exists; give a new file") from error
            except OSError as error:
                raise UserError(f"--record {self.path}: {error.strerror}; give another file") from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, served: ServedKey) -> None:
        """Write the samples of a session; raises UserError if they cannot be written."""
        trajectories = served.model.trajectories()
        if self._file is None or self.path is None or not trajectories:
            return
        reward = served.session.reward or 0.0
        task = {"session": served.name} if served.name else {}
        ended = time.time() - (time.monotonic() - served.used)  # not when it was found to be idle
        episode = Episode(trajectories, reward, {"reward": reward}, task, started=served.began, ended=ended)
        group = Group(self.count, 0, [episode])
        with one_line(self.path.parent, str(self.path.name)):
            self._file.write(json_line({**group.to_json(), "model": self.model}))
            self._file.flush()
        self.count += 1
