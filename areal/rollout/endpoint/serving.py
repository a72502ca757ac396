"""The endpoint outside of training: nothing is learned, so each call may ask for a distribution of its own.

There is one key. What is asked with it is one session; with a name behind it, ``KEY/NAME``, a session of its
own. A session ends once it has been idle for a while, or has sampled much; what is asked later begins another
one, to which a history that goes on is a new prompt. So memory is bounded, however long the server runs.
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
"""Seconds between two looks for sessions that have been idle for long."""


class _Granted(BaseModel):
    """What a call may ask for, each as vLLM samples it exactly."""

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
    """What one call may narrow, and what it asks for besides, under the names of :class:`Sampling`."""

    asked: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class GrantingReading(Reading):
    """A request while it is read; settings that vLLM supports exactly are applied.

    Attributes:
        asked: what it asks for, under the names of :class:`Sampling`.
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
        if name == "temperature" and 0 < found < 0.01:  # vLLM would take 0.01 in its place
            raise Refusal(400, f"temperature={found}: give 0, or a value of at least 0.01", by_program=True)
        ours = "thinking_budget" if name == "thinking_token_budget" else name  # which is vLLM's
        self.asked[ours] = max(0, found) if name == "top_k" else found

    def form(self, name: str, given: dict[str, Any], why: str) -> None:
        """Grant JSON, of a schema or of none."""
        kind, within = given["type"], given.get("json_schema", given)
        schema = within.get("schema") if isinstance(within, dict) else None
        if kind == "json_object":
            schema = {"type": "object"}
        if kind not in ("json_object", "json_schema") or not isinstance(schema, dict):
            raise Refusal(400, f"{name}={shown(given)}: give text, json_object, or json_schema with a schema")
        self.asked["schema"] = json.dumps(schema)


class ServedSession(Session):
    """A session whose calls say themselves how they are sampled."""

    @property
    def idle(self) -> bool:
        """Whether no call is in flight."""
        return not self._in_flight

    async def read(self, wire: WireFormat, body: bytes) -> tuple[ModelRequest, list[str]]:
        """Return a request; nothing is ignored. Raises Refusal as :meth:`Session.read` does."""
        reading = GrantingReading(self._temperature, items=self._items)
        request = await self._parsed(wire.parse, body, reading)
        limits = {f.name: getattr(request.limits, f.name) for f in fields(SamplingLimits)}
        return replace(request, limits=AskedSampling(**limits, asked=reading.asked)), []


class ServedRecorder(Recorder):
    """A recorder that samples as each call asks. What it records is no sample of what training would see."""

    def _narrowed(self, call: int, limits: SamplingLimits) -> Sampling:
        sampling = super()._narrowed(call, limits)
        return replace(sampling, **limits.asked) if isinstance(limits, AskedSampling) else sampling


@dataclass(slots=True)
class ServedKey:
    """What belongs to one key.

    Attributes:
        name: that the client has given the session; empty if there is none.
        model: with what was recorded.
        session: its calls.
        began: when the first call came, in seconds since the epoch.
        used: when the last one was in flight, on the monotonic clock.
    """

    name: str
    model: Recorder
    session: ServedSession
    began: float
    used: float


class Sessions:
    """The sessions of a server, by their keys.

    Args:
        key: that opens all of them.
        start: returns a model and a session on it.
        ended: called with each that has ended.
        patience: seconds without a call after which one ends.
        max_completions: of one; then it ends as soon as no call is in flight.
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
        """Return the session of a key, if it is good: the server's, or one of a session's own."""
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
        """End those that have been idle for long, until it is cancelled."""
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
        """Give up the calls in flight, and end all sessions."""
        await asyncio.gather(*(served.session.close() for served in self._sessions.values()))
        for name in list(self._sessions):
            self._end(name)
