"""What a run tells."""

from __future__ import annotations

import hashlib

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.control.simulate.cluster import Cost


class Moment(msgspec.Struct, frozen=True, kw_only=True):
    """How things stood when a decision was taken."""

    t: float
    replicas: int
    """That the target asks for."""
    ready: int
    nodes: int
    waiting: int
    decided: str


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """How long something took."""

    mean_s: float
    p50_s: float
    p99_s: float
    max_s: float


class Freshness(msgspec.Struct, frozen=True, kw_only=True):
    """How far the learner is behind."""

    backlog_max: float
    """Events."""
    backlog_end: float
    p50_s: float
    """From an event to the predictions."""
    p99_s: float
    down_s: float
    """Seconds without a learner."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """A run, as a whole."""

    requests: int
    served: int
    retried: int
    """Whose replica went away under them."""
    wait: Latency | None
    response: Latency | None
    """Waiting and service; None where nothing was served."""
    replica_hours: float
    """Of replicas that were ready."""
    replicas_max: int
    nodes_max: int
    nodes_bought: int
    cold_starts: int
    reclaimed: int
    """Spot nodes that were taken."""
    crashed: int
    cost: Cost
    freshness: Freshness | None
    moments: list[Moment]
    digest: str
    """The hash of all that happened: every wait, every decision, every cost."""


def latency(seconds: NDArray[np.float64]) -> Latency | None:
    """A summary; None of nothing."""
    if not len(seconds):
        return None
    p50, p99 = np.quantile(seconds, [0.5, 0.99])
    return Latency(mean_s=float(seconds.mean()), p50_s=float(p50), p99_s=float(p99), max_s=float(seconds.max()))


def digest(waits: NDArray[np.float64], moments: list[Moment], cost: Cost) -> str:
    """The hash of what happened."""
    found = hashlib.sha256(waits.tobytes())
    found.update(msgspec.msgpack.encode((moments, cost)))
    return found.hexdigest()
