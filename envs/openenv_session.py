"""A session with an OpenEnv server: a connection with its own environment on the server.

This module does not need the server's package: messages are JSON on a WebSocket. The package's own client
would also import its web interface, which takes seconds.
"""

from __future__ import annotations

import ipaddress
import json
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from areal import faults
from areal.errors import EnvironmentFailure, UserError, install_hint

if TYPE_CHECKING:
    from websockets.sync.client import ClientConnection

_CONNECT = 10.0
"""Time limit for opening a connection, in seconds."""
_GOODBYE = 1.0
"""Time limit for closing a connection, in seconds."""
_LARGEST = 2**26
"""Maximum number of bytes of a message."""
_idle: set[OpenEnvSession] = set()
"""Sessions of this process without a running episode; they end if a server has no more sessions."""
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Told:
    """A server's answer: an observation by field, the reward of the step, and whether the episode is over."""

    observation: Mapping[str, Any]
    reward: float
    done: bool


class Refused(Exception):
    """The server refuses an action because of the values of these fields."""

    def __init__(self, message: str, fields: set[str]) -> None:
        super().__init__(message)
        self.fields = fields


class _Full(Exception):
    """The server has no free session."""


class _Gone(Exception):
    """A connection was refused, or has ended."""


@cache
def schemas(url: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the JSON schemas of a server's actions and observations; the server is asked once.

    Raises:
        UserError: there is no OpenEnv server at this address.
    """
    address = _http(url)
    try:
        found = httpx.get(f"{address}/schema", timeout=_CONNECT, trust_env=not _is_here(url))
        said = found.json() if found.is_success else None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UserError(
            f"openenv-v1: no server answers at {url} ({type(error).__name__}: {error}); start it, or set "
            "env_options.url to another address"
        ) from error
    except ValueError:
        said = None
    if not isinstance(said, dict) or not all(
        isinstance(said.get(n), dict) for n in ("action", "observation")
    ):
        raise UserError(
            f"openenv-v1: {address}/schema does not belong to an OpenEnv server ({found.status_code}, "
            f"{found.text[:80]!r}); env_options.url must be the address that its client takes as base_url"
        )
    return said["action"], said["observation"]


class OpenEnvSession:
    """A session; its first reset connects it, and after a lost connection, the next reset connects it again.

    Args:
        url: URL of the server.
        time_limit: time limit of a call, in seconds.
        wait: seconds that a reset waits for a server that is unavailable or has no free session.

    Raises:
        UserError: the WebSocket client is not installed.
    """

    def __init__(self, url: str, time_limit: float, wait: float) -> None:
        try:
            import websockets.sync.client  # noqa: F401 (fails before a run starts)
        except ModuleNotFoundError as error:
            raise UserError(
                f"openenv-v1 requires websockets; install it with {install_hint('openenv')}"
            ) from error
        self._url = url
        self._time_limit = time_limit
        self._wait = wait
        self._socket: ClientConnection | None = None

    def reset(self, given: Mapping[str, Any]) -> Told:
        """Begin an episode.

        Raises:
            UserError: the server has fewer sessions than needed.
            EnvironmentFailure: the server is unreachable or exceeds the time limit, or its environment
                raised.
        """
        message = {"type": "reset", "data": dict(given)}
        with _lock:
            _idle.discard(self)
        try:
            if self._socket is not None:
                with suppress(_Gone):  # a connection may end after a long idle time; nothing is lost
                    return self._told(message)
                self.close()
            return self._patiently(message)
        except _Gone as error:
            raise self._failure("reset", str(error)) from error.__cause__
        except _Full as error:
            raise UserError(
                f"openenv-v1: {self._url} has no free session ({error.args[0]}); start it with more "
                "(max_concurrent_envs): one for each episode in flight (rollout.max_concurrent, but at "
                "least rollout.group_size), and as many again for evaluations during training "
                "(evaluation.every); or decrease these settings"
            ) from error

    def _patiently(self, message: dict[str, Any]) -> Told:
        """Connect and reset; retry while the server is unavailable or has no free session."""
        retrying = Retrying(
            retry=retry_if_exception_type((_Gone, _Full)),
            wait=wait_exponential(0.05, max=1.0),
            stop=stop_after_delay(self._wait),
            reraise=True,
        )
        return retrying(self._connected, message)

    def _connected(self, message: dict[str, Any]) -> Told:
        from websockets.exceptions import InvalidURI, WebSocketException
        from websockets.sync.client import connect

        try:
            self._socket = connect(
                f"{_http(self._url).replace('http', 'ws', 1)}/ws",
                open_timeout=_CONNECT,
                close_timeout=_GOODBYE,
                ping_interval=None,  # a server does not answer pings while it computes
                max_size=_LARGEST,
                proxy=None if _is_here(self._url) else True,
            )
        except InvalidURI as error:
            raise UserError(f"openenv-v1: env_options.url={self._url}: {error}") from error
        except (OSError, WebSocketException) as error:
            raise _Gone(f"cannot be reached ({_words(error)})") from error
        try:
            return self._told(message)
        except _Full:
            self.close()
            self._make_room()
            raise
        except _Gone:
            self.close()
            raise

    def _make_room(self) -> None:
        """End an idle session with the same server."""
        with _lock:
            other = next((session for session in _idle if session._url == self._url), None)
            if other is None:
                return
            _idle.remove(other)
            socket, other._socket = other._socket, None
        _end(socket)

    def step(self, action: Mapping[str, Any]) -> Told:
        """Take an action.

        Raises:
            Refused: the action is invalid; the episode continues.
            EnvironmentFailure: the server is gone or exceeds the time limit, or its environment raised.
        """
        try:
            return self._told({"type": "step", "data": dict(action)})
        except (_Gone, _Full) as error:
            raise self._failure("step", str(error)) from error.__cause__

    def leave(self) -> None:
        """Record the end of the episode; the session then ends if the server has no more sessions."""
        with _lock:
            _idle.add(self)

    def _told(self, message: dict[str, Any]) -> Told:
        from websockets.exceptions import ConnectionClosed, WebSocketException

        call = message["type"]
        if self._socket is None:
            raise _Gone("has lost the session")
        try:
            with suppress(ConnectionClosed):  # its last message can still be read
                self._socket.send(json.dumps(message))
            said = json.loads(self._socket.recv(self._time_limit))
        except TimeoutError as error:
            raise self._failure(
                call, f"has not answered after {self._time_limit:g} s (time_limit)"
            ) from error
        except (OSError, WebSocketException) as error:
            raise _Gone(f"has disconnected ({_words(error)})") from error
        except ValueError:
            said = None
        data = said.get("data") if isinstance(said, dict) else None
        if not isinstance(data, dict):
            raise self._failure(call, f"did not answer like an OpenEnv server: {str(said)[:80]}")
        if said.get("type") == "error":
            raise self._error(call, data)
        reward = data.get("reward")
        if done := bool(data.get("done")):
            self.leave()
        return Told(data.get("observation") or {}, 0.0 if reward is None else float(reward), done)

    def _error(self, call: str, data: dict[str, Any]) -> Exception:
        code, text = data.get("code"), " ".join(str(data.get("message")).split())
        if code == "CAPACITY_REACHED":
            return _Full(text)
        if code == "VALIDATION_ERROR" and call == "step":
            errors = [error for error in data.get("errors") or () if isinstance(error, dict)]
            fields = {str(place[0]) for error in errors if (place := error.get("loc"))}
            return Refused("; ".join(str(error.get("msg")) for error in errors) or text, fields)
        return self._failure(call, f"answered with an error: {text} ({code})", fault=False)

    def _failure(self, call: str, wrong: str, fault: bool = True) -> EnvironmentFailure:
        """Return a failure, after which the state of the session is unknown."""
        self.close()
        if fault:
            faults.count("env_faults")
        return EnvironmentFailure(f"environment 'openenv-v1': {call}: the server at {self._url} {wrong}")

    def close(self) -> None:
        """End the session."""
        with _lock:
            _idle.discard(self)
            socket, self._socket = self._socket, None
        _end(socket)


def _end(socket: ClientConnection | None) -> None:
    from websockets.exceptions import WebSocketException

    if socket is not None:
        with suppress(OSError, WebSocketException):  # the connection may be gone
            socket.send('{"type": "close"}')
        socket.close()


def _http(url: str) -> str:
    """Return the address in HTTP form; raises UserError if it is invalid."""
    scheme, rest, where = url.partition("://")
    known = {"http": "http", "https": "https", "ws": "http", "wss": "https"}
    if scheme not in known or not _host(url):
        raise UserError(f"openenv-v1: env_options.url={url} is not an address such as http://HOST:PORT")
    return f"{known[scheme]}{rest}{where.rstrip('/')}"


def _host(url: str) -> str:
    """Return the host of an address; empty if it has none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_here(url: str) -> bool:
    """Return whether a server is on this machine, which needs no proxy."""
    host = _host(url)
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _words(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
