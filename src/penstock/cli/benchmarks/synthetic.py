"""A seeded stream with a known best answer: a logistic concept that turns while it is learned, behind noise.

Each event has 20 numbers x_j = m_j + s_j z_j with z ~ N(0, I), so that a learner has to find the scales s_j (between
0.1 and 100) and the places m_j (some s_j from 0) itself. The label is 1 with probability sigmoid(STEEPNESS * z . w(t)),
where the unit vector w(t) turns by a full circle in a fixed plane every TURN_EVENTS events. Nobody is right more often
than the mean of max(p, 1 - p): that is the Bayes accuracy which the report states beside everyone's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

FEATURES = 20
NAMES = tuple(f"x{j}" for j in range(FEATURES))
STEEPNESS = 3.0
"""The logit is then N(0, 3^2), for which the mean of max(p, 1 - p) is 0.83."""
TURN_EVENTS = 200_000
DECIMALS = 4
"""Decimals that numbers are rounded to, as a sensor's would be; JSON, Arrow and the peers get the very same values."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Labelled events in order."""

    numbers: NDArray[np.float64]
    """(n, FEATURES)"""
    labels: NDArray[np.int64]
    """(n,) 0 or 1"""
    bayes_accuracy: float
    """The share of right answers of one who knows every event's true probability."""

    def __len__(self) -> int:
        return len(self.labels)


def generate(count: int, *, start: int = 0, seed: int = 0) -> Stream:
    """``count`` events of the stream with this seed, the first of which comes ``start`` events after its beginning."""
    concept = np.random.default_rng(seed)
    scale = 10.0 ** concept.uniform(-1.0, 2.0, size=FEATURES)
    place = scale * concept.normal(size=FEATURES)
    plane, _ = np.linalg.qr(concept.normal(size=(FEATURES, 2)))
    # Stretches of one stream are drawn independently of each other, so that none has to be made to reach the next.
    draws = np.random.default_rng([seed, start])
    z = draws.normal(size=(count, FEATURES))
    angle = 2.0 * np.pi * np.arange(start, start + count) / TURN_EVENTS
    logit = STEEPNESS * ((z @ plane) * np.stack([np.cos(angle), np.sin(angle)], axis=1)).sum(axis=1)
    chance = 1.0 / (1.0 + np.exp(-logit))
    labels = (draws.random(count) < chance).astype(np.int64)
    bayes = float(np.maximum(chance, 1.0 - chance).mean()) if count else float("nan")
    return Stream(np.round(place + scale * z, DECIMALS), labels, bayes)


def json_single(stream: Stream) -> list[bytes]:
    """One request body an event."""
    return [msgspec.json.encode(event) for event in _events(stream)]


def json_batches(stream: Stream, size: int, ids: Sequence[str] | None = None) -> list[bytes]:
    """Request bodies that are JSON arrays of ``size`` events; a rest that does not fill one is left out."""
    events = _events(stream)
    if ids is not None:
        events = [{"id": event_id, **event} for event_id, event in zip(ids, events, strict=True)]
    return [msgspec.json.encode(events[at : at + size]) for at in range(0, len(events) - size + 1, size)]


def arrow_batches(stream: Stream, size: int, ids: Sequence[str] | None = None) -> list[bytes]:
    """Request bodies that are Arrow IPC streams of ``size`` events each, one column a feature and the label's."""
    import pyarrow as pa

    named = [] if ids is None else [("id", pa.string())]
    schema = pa.schema([*((name, pa.float64()) for name in NAMES), ("label", pa.int64()), *named])
    bodies = []
    for at in range(0, len(stream) - size + 1, size):
        rows = slice(at, at + size)
        columns = [np.ascontiguousarray(stream.numbers[rows, j]) for j in range(FEATURES)]
        told = [] if ids is None else [pa.array(ids[rows])]
        batch = pa.record_batch([*map(pa.array, columns), pa.array(stream.labels[rows]), *told], schema=schema)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, schema) as writer:
            writer.write_batch(batch)
        bodies.append(sink.getvalue().to_pybytes())
    return bodies


def predict_bodies(stream: Stream) -> list[bytes]:
    """One request body for a prediction an event, without the label."""
    return [msgspec.json.encode({"features": event["features"]}) for event in _events(stream)]


def _events(stream: Stream) -> list[dict[str, object]]:
    rows = stream.numbers.tolist()
    return [
        {"features": dict(zip(NAMES, row, strict=True)), "label": label}
        for row, label in zip(rows, stream.labels.tolist(), strict=True)
    ]
