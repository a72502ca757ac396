"""The endpoint outside of training: nothing is trained, so each call may request its own distribution.

There is one key. All calls with it form one session; with an appended name, ``KEY/NAME``, they form a
separate session. A session ends when it has been idle for a while, or has sampled much. Later calls begin a
new one, in which a continued history is a new prompt. Memory is therefore bounded, regardless of how long the
server runs.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from areal.agents.interface import SamplingLimits
from areal.rollout.endpoint.session import Session
from areal.rollout.endpoint.wire import ModelRequest, Reading, Refusal, WireFormat, shown
from areal.rollout.engine import Sampling
from areal.rollout.recorder import Recorder

_LOOK = 1.0
"""Interval in seconds between checks for idle sessions."""


class _Granted(BaseModel):
    """Settings that a call may request, each of which vLLM samples exactly."""

    model_config = ConfigDict(strict=True)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, gt=0, allow_inf_nan=False)
    thinking_token_budget: int | None = Field(None, ge=8)


@dataclass(frozen=True, slots=True)
class AskedSampling(SamplingLimits):
    """The limits of a call, and its other settings, under the names of :class:`Sampling`."""

    asked: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class GrantingReading(Reading):
    """A request while it is read; settings that vLLM supports exactly are applied.

    Attributes:
        asked: the requested settings, under the names of :class:`Sampling`.
    """

    asked: dict[str, Any] = field(default_factory=dict)

    def override(self, name: str, value: Any, why: str) -> None:
        """Apply a setting that changes the sampling; raises Refusal if that is impossible."""
        if name not in _Granted.model_fields:
            super().override(name, value, why)  # refused, not ignored
        if (
            name == "thinking_token_budget" and value == -1 and type(value) is int
        ):  # vLLM's value for no budget
            self.asked["thinking_budget"] = None
            return
        try:
            found = getattr(_Granted.model_validate({name: value}), name)
        except ValidationError as error:
            why = error.errors()[0]["msg"]
            raise Refusal(400, f"{name}={shown(value)}: {why}", by_program=True) from error
        if name == "temperature" and 0 < found < 0.01:  # vLLM would use 0.01 instead
            raise Refusal(400, f"temperature={found}: give 0, or a value of at least 0.01", by_program=True)
        ours = "thinking_budget" if name == "thinking_token_budget" else name  # vLLM's name
        self.asked[ours] = max(0, found) if name == "top_k" else found

    def form(self, name: str, given: dict[str, Any], why: str) -> None:
        """Apply a JSON format, with or without a schema."""
        kind, within = given["type"], given.get("json_schema", given)
        schema = within.get("schema") if isinstance(within, dict) else None
        if kind == "json_object":
            schema = {"type": "object"}
        if kind not in ("json_object", "json_schema") or not isinstance(schema, dict):
            raise Refusal(400, f"{name}={shown(given)}: give text, json_object, or json_schema with a schema")
        self.asked["schema"] = json.dumps(schema)


class ServedSession(Session):
    """A session whose calls choose their own sampling settings."""

    @property
    def idle(self) -> bool:
        """Whether no call is in flight."""
        return not self._in_flight

    async def read(self, wire: WireFormat, body: bytes) -> tuple[ModelRequest, list[str]]:
        """Return a request; no settings are ignored. Raises Refusal as :meth:`Session.read` does."""
        reading = GrantingReading(self._temperature, items=self._items)
        request = await self._parsed(wire.parse, body, reading)
        limits = {f.name: getattr(request.limits, f.name) for f in fields(SamplingLimits)}
        return replace(request, limits=AskedSampling(**limits, asked=reading.asked)), []


class ServedRecorder(Recorder):
    """A recorder that samples as each call requests; its records do not follow training's distribution."""

    def _narrowed(self, call: int, limits: SamplingLimits) -> Sampling:
        sampling = super()._narrowed(call, limits)
        return replace(sampling, **limits.asked) if isinstance(limits, AskedSampling) else sampling


@dataclass(slots=True)
class ServedKey:
    """The data of one key.

    Attributes:
        name: the client's name of the session; empty if there is none.
        model: the model, with its records.
        session: the session with its calls.
        began: time of the first call, in seconds since the epoch.
        used: time at which a call was last in flight, on the monotonic clock.
    """

    name: str
    model: Recorder
    session: ServedSession
    began: float
    used: float


class Sessions:
    """The sessions of a server, by key.

    Args:
        key: the key that opens all of them.
        start: returns a model and a session on it.
        ended: called with each session that has ended.
        patience: seconds without a call after which a session ends.
        max_completions: maximum of a session; it then ends as soon as no call is in flight.
    """

    def __init__(
        self,
        key: str,
        start: Callable[[], tuple[Recorder, ServedSession]],
        ended: Callable[[ServedKey], None],
        patience: float = 600.0,
        max_completions: int = 4096,
    ) -> None:
        self._key = key.encode()
        self._start = start
        self._ended = ended
        self._patience = patience
        self._max_completions = max_completions
        self._sessions: dict[str, ServedKey] = {}

    def of_key(self, key: str) -> Session | None:
        """Return the session of a key, if it is valid: the server's key, or that of a separate session."""
        own, _, name = key.partition("/")
        if not hmac.compare_digest(own.encode(), self._key):
            return None
        found = self._sessions.get(name)
        if found is not None and self._is_full(found):
            self._end(name)
            found = None
        if found is None:
            found = self._sessions[name] = ServedKey(name, *self._start(), time.time(), 0)
        found.used = time.monotonic()
        return found.session

    def _is_full(self, served: ServedKey) -> bool:
        return served.session.idle and served.session.account.completions >= self._max_completions

    async def run(self) -> None:
        """End idle sessions, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK)
            now = time.monotonic()
            for name, served in list(self._sessions.items()):
                if not served.session.idle:
                    served.used = now
                elif now - served.used > self._patience:
                    self._end(name)

    def _end(self, name: str) -> None:
        self._ended(self._sessions.pop(name))

    async def close(self) -> None:
        """Cancel the calls in flight, and end all sessions."""
        await asyncio.gather(*(served.session.close() for served in self._sessions.values()))
        for name in list(self._sessions):
            self._end(name)
