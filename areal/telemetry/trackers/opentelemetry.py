"""OpenTelemetry: traces of rollouts, according to the variables ``OTEL_EXPORTER_OTLP_…``."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any

from areal.telemetry.trackers.interface import EVERY, Consumed, Tracker

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
_SAMPLER = "OTEL_TRACES_SAMPLER"
_CONTENTS = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
_WITH, _WITHOUT = ("true", "span_only", "span_and_event"), ("", "false", "no_content", "event_only")
_AT_ONCE = 512
"""Maximum spans of one request."""


class OpenTelemetry(Tracker):
    """Sends a trace of each episode; see :class:`areal.telemetry.trackers.interface.Tracker`.

    If a sampler is configured, it chooses among all episodes.
    """

    def __init__(self, directory: Path) -> None:
        self.link = next(filter(None, map(os.environ.get, _ENDPOINTS)), "http://localhost:4318")
        self.every = 1 if os.environ.get(_SAMPLER) else EVERY
        self._name = directory.name

    def start(self, config: dict[str, Any], run_id: str | None, version: int) -> str:
        """Begin or resume a run; a repeated update has the same ids as before."""
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        from areal.telemetry.trackers.traces import Tracer

        run_id = run_id or uuid.uuid4().hex
        self._exporter = OTLPSpanExporter()
        self._tracer = Tracer(run_id, self._name, config, _with_contents())
        return run_id

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Do nothing: traces have no metrics."""

    def rollouts(self, consumed: Consumed) -> None:
        """Send the traces of all episodes.

        Raises:
            OSError: the receiver has not accepted them within ``OTEL_EXPORTER_OTLP_TIMEOUT`` seconds.
        """
        from opentelemetry.sdk.trace.export import SpanExportResult

        spans = self._tracer.spans(consumed)
        for begin in range(0, len(spans), _AT_ONCE):
            if self._exporter.export(spans[begin : begin + _AT_ONCE]) is not SpanExportResult.SUCCESS:
                raise OSError(f"{self.link} has not accepted the spans; engine.log has the reason")

    def finish(self, succeeded: bool) -> None:
        """Close the connection."""
        self._exporter.shutdown()


def _with_contents() -> bool:
    asked = os.environ.get(_CONTENTS, "").strip().lower()
    if asked not in (*_WITH, *_WITHOUT):
        raise ValueError(
            f"{_CONTENTS}={asked} is not valid; set it to one of {', '.join(filter(None, _WITH + _WITHOUT))}"
        )
    return asked in _WITH
