"""Counters and histograms that the stages write, and their Prometheus text.

Every process writes its own memory-mapped files in one folder, and whoever is asked adds them up, so that a scrape of
any server worker sees the whole service, the learner included. The folder is named by the environment variable
``PROMETHEUS_MULTIPROC_DIR`` before the first import; without it there is one process and nothing is written to disk.
What can be read off the logs and the learner's progress is no counter here: it is computed when somebody asks.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import REGISTRY, Collector

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# From 50 microseconds, which is a bare prediction, to 2.5 seconds, which is an outage.
_SECONDS = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

_ACCEPTED = Counter("penstock_events_accepted", "Events acknowledged as durable", ["service", "kind"])
_DUPLICATES = Counter("penstock_events_duplicate", "Events acknowledged because they were there already", ["service"])
_REFUSED = Counter("penstock_requests_refused", "Requests answered with an error", ["service", "reason"])
_PREDICTIONS = Counter("penstock_predictions", "Predictions answered", ["service"])
_UNRECORDED = Counter("penstock_predictions_unrecorded", "Predictions whose record could not be kept", ["service"])
_PREDICT_S = Histogram("penstock_predict_seconds", "From a read request to its answer", ["service"], buckets=_SECONDS)
_COMMIT_S = Histogram("penstock_commit_seconds", "From handing over to durable", ["service"], buckets=_SECONDS)
_COMMIT_EVENTS = Histogram(
    "penstock_commit_events", "Events of one frame", ["service"], buckets=(1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)
)
_OPENLINEAGE = Counter("penstock_openlineage_events", "OpenLineage events by outcome", ["service", "outcome"])
_CORRECTING_S = Counter("penstock_correcting_seconds", "Processor time of learning again for corrections", ["service"])


def spent_correcting(service: str, cpu_s: float) -> None:
    """Count what it took to make corrections good."""
    _CORRECTING_S.labels(service).inc(cpu_s)


def openlineage_counter(service: str, outcome: str) -> Counter:
    """Of the events that were ``sent``, that ``failed``, and that were ``dropped`` because too many waited."""
    return _OPENLINEAGE.labels(service, outcome)


class ServiceMetrics:
    """What a server worker counts of one service; bound once, because looking labels up costs more than counting."""

    def __init__(self, service: str) -> None:
        self.service = service
        self.accepted = {kind: _ACCEPTED.labels(service, kind) for kind in ("example", "feedback", "prediction")}
        self.duplicates = _DUPLICATES.labels(service)
        self.predictions = _PREDICTIONS.labels(service)
        self.unrecorded = _UNRECORDED.labels(service)
        self.predict_s = _PREDICT_S.labels(service)
        self.commit_s = _COMMIT_S.labels(service)
        self.commit_events = _COMMIT_EVENTS.labels(service)

    def refused(self, reason: str) -> None:
        """Count a request that was answered with an error of this kind."""
        _REFUSED.labels(self.service, reason).inc()


class Reading:
    """Values read off for one scrape: name, help, whether it only grows, and the value of each service."""

    __slots__ = ("explanation", "grows", "name", "values")

    def __init__(self, name: str, explanation: str, values: dict[str, float], *, grows: bool = False) -> None:
        self.name = name
        self.explanation = explanation
        self.values = values
        self.grows = grows


def counted(folder: Path, name: str) -> dict[str, float]:
    """What all processes that count into this folder have counted under this name, by service."""
    registry = CollectorRegistry()
    try:
        MultiProcessCollector(registry, path=str(folder))  # type: ignore[no-untyped-call]
        families = list(registry.collect())
    except (OSError, ValueError):
        # It is not there yet, or a file was just being made: the next look sees it.
        return {}
    found: dict[str, float] = {}
    for family in families:
        for sample in family.samples:
            if sample.name == name:
                service = sample.labels.get("service", "")
                found[service] = found.get(service, 0.0) + sample.value
    return found


def text(readings: Sequence[Reading]) -> bytes:
    """Everything that the processes counted and these readings, in Prometheus' text format."""
    registry = CollectorRegistry()
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        counted = generate_latest(registry)
    else:
        counted = generate_latest(REGISTRY)
    now = CollectorRegistry()
    now.register(_Readings(readings))
    return counted + generate_latest(now)


class _Readings(Collector):
    def __init__(self, readings: Sequence[Reading]) -> None:
        self._readings = readings

    def collect(self) -> Iterable[Metric]:
        for reading in self._readings:
            family = CounterMetricFamily if reading.grows else GaugeMetricFamily
            metric = family(reading.name, reading.explanation, labels=["service"])
            for service, value in reading.values.items():
                metric.add_metric([service], value)
            yield metric
