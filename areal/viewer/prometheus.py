"""The latest values of all metrics of runs, for Prometheus, which requests them repeatedly."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from areal.viewer.watched import WatchedRun

CONTENT_TYPE = CONTENT_TYPE_LATEST


class _Gauges:
    """A collector for one answer."""

    def __init__(self, runs: Sequence[WatchedRun]) -> None:
        self._runs = runs

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """Return a gauge for each metric, with a value for each run that has it."""
        found: dict[str, GaugeMetricFamily] = {}
        for run in self._runs:
            own = set[str]()
            for metric, value in run.latest().items():
                name = "areal_" + re.sub(r"[^a-zA-Z0-9]", "_", metric)
                if name in own:  # of names that only differ in special characters, the first counts
                    continue
                own.add(name)
                gauge = found.setdefault(name, GaugeMetricFamily(name, metric, labels=["run"]))
                gauge.add_metric([run.name], value)
        return found.values()


def exposition(runs: Sequence[WatchedRun]) -> bytes:
    """Return the latest values in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Gauges(runs))
    return generate_latest(registry)
