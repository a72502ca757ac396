"""The HTTP server: in the run's own event loop, on a loopback port that the system chooses."""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from areal.agents.interface import Endpoint, Settings
from areal.errors import UserError, install_hint
from areal.listening import listen
from areal.rollout.endpoint.refusals import Refusals
from areal.rollout.endpoint.session import Session, Texts
from areal.rollout.endpoint.wire import ServedModel

_KEEP_ALIVE = 60
"""Seconds that an idle connection is kept: longer than clients keep it, so that none uses a closing one."""
SIGN_EVERY = 15.0
"""Interval in seconds of the keep-alives while a response takes longer."""
_GRACE = 2
"""Time limit in seconds for connections to close at the end."""


class EndpointServer:
    """Serves the models of many episodes, each with its own key; starts when the first one opens.

    Args:
        texts: returns the texts of tokens, for calls that request log-probabilities.
        max_request_bytes: maximum size of a request's body; larger than any conversation that fits a model.
        sign_every: interval in seconds of the keep-alives while a response takes longer.
        limits: limits of each episode's calls: ``max_sampling`` and ``max_in_flight`` of :class:`Session`.
    """

    def __init__(
        self,
        texts: Texts,
        temperature: float,
        max_request_bytes: int = 8 * 2**20,
        sign_every: float = SIGN_EVERY,
        **limits: int,
    ) -> None:
        self.refusals = Refusals()
        self._texts = texts
        self._temperature = temperature
        self._max_request_bytes = max_request_bytes
        self._sign_every = sign_every
        self._limits = limits
        self._sessions: dict[str, Session] = {}
        self._starting = asyncio.Lock()
        self._address = ""
        self._uvicorn: Any = None
        self._serving: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def open(
        self, model: ServedModel, max_completions: int, settings: Settings = "ignore"
    ) -> AsyncIterator[Endpoint]:
        """Serve an episode's model at an address; its key is valid within the context.

        Raises:
            UserError: the web framework is not installed.
        """
        async with self._starting:
            if self._serving is None:
                self._start()
        session = Session(model, self._texts, self._temperature, max_completions, settings, **self._limits)
        key = f"sk-areal-{secrets.token_urlsafe(32)}"
        self._sessions[key] = session
        abandoned = True
        try:
            yield Endpoint(f"{self._address}/v1", key, lambda: session.reward, session.account)
            abandoned = False
        finally:
            del self._sessions[key]
            await session.close(abandoned)
            if session.failure is not None:  # instead of the program's reaction to it
                raise session.failure

    async def close(self) -> None:
        """Stop serving. Every session must be closed before."""
        if self._serving is not None:
            self._uvicorn.should_exit = True
            # If the caller is cancelled meanwhile, the server still closes its sockets.
            await asyncio.shield(self._serving)
            self._serving = None

    def _start(self) -> None:
        require_framework()
        from areal.rollout.endpoint.app import make_app

        # The socket listens from now on; connections wait until the server accepts them.
        listening = without_delay(listen("127.0.0.1", 0))
        self._address = f"http://127.0.0.1:{listening.getsockname()[1]}"
        app = make_app(self._sessions.get, self.refusals, self._max_request_bytes, self._sign_every)
        self._uvicorn = make_uvicorn(app)
        self._serving = asyncio.create_task(self._uvicorn.serve([listening]), name="endpoint")


def without_delay(listening: socket.socket) -> socket.socket:
    """Disable Nagle's algorithm on each connection that a listening socket accepts; return the socket.

    Head and body of a response are sent separately, and the body must not wait for the client's
    acknowledgement of the head, 40 ms later. Connections inherit this option from the socket.
    """
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def require_framework() -> None:
    """Check that a server can start; raises UserError if it cannot."""
    try:
        import starlette  # noqa: F401
        import uvicorn  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"programs reach the model over HTTP, which requires {error.name}; install it with "
            f"{install_hint('endpoint')}"
        ) from error


def _is_told(record: logging.LogRecord) -> bool:
    """Return whether a log record of uvicorn is kept: all but incomplete JSON, whose refusal is recorded."""
    return not record.getMessage().startswith("ASGI callable returned without completing")


def make_uvicorn(app: Any) -> Any:
    """Return a server of an application without its own signal handlers: ``await it.serve([socket])``."""
    import uvicorn

    logging.getLogger("uvicorn.error").addFilter(_is_told)

    class Uvicorn(uvicorn.Server):
        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """Leave signals to the run."""
            yield

    return Uvicorn(
        uvicorn.Config(
            app,
            lifespan="off",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_GRACE,
        )
    )
