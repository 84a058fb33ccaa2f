"""What the demo knows so far: written by the clients, read by the screen and the summary."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.cli.demonstration.freshness import Freshness
from penstock.cli.demonstration.streams import HeldOut

DIGITS = "digits"
FLOW = "flow"
SERVICES = (DIGITS, FLOW)


@dataclass(frozen=True, slots=True)
class Moment:
    """Something worth telling, for the screen's list and the plain progress lines."""

    at_s: float
    """Seconds since the streams began."""
    text: str
    alarming: bool = False


class Tally:
    """Counts of what clients sent and asked; safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.acknowledged = dict.fromkeys(SERVICES, 0)
        """Events by service: examples and feedback, the burst included."""
        self.predictions_served = 0
        self.predictions_failed = 0
        self.failures: list[str] = []
        """The first few failed predictions, in words."""
        self.faults: list[str] = []
        """Clients that broke off, in words: the demo ends with these."""

    def acknowledge(self, service: str, events: int) -> None:
        with self._lock:
            self.acknowledged[service] += events

    def served(self, predictions: int) -> None:
        with self._lock:
            self.predictions_served += predictions

    def failed(self, predictions: int, reason: str) -> None:
        with self._lock:
            self.predictions_failed += predictions
            if len(self.failures) < 5:
                self.failures.append(reason)

    def fault(self, reason: str) -> None:
        with self._lock:
            self.faults.append(reason)


class Recall:
    """Which held-out digits a learner names rightly, by its newest answer to each."""

    def __init__(self, held_out: HeldOut) -> None:
        self._labels = held_out.labels
        self._right = np.full(len(held_out.labels), np.nan)

    def answered(self, places: NDArray[np.intp], classes: NDArray[np.int64]) -> None:
        """(n,) places among the held-out digits, and the class answered for each."""
        self._right[places] = self._labels[places] == classes

    def of(self, *classes: int) -> float | None:
        """The share answered rightly of these classes, or of all; None before any answer."""
        chosen = np.isin(self._labels, classes) if classes else np.ones(len(self._labels), dtype=bool)
        right = self._right[chosen & ~np.isnan(self._right)]
        return float(right.mean()) if right.size else None


@dataclass(slots=True)
class FlowErrors:
    """Absolute errors in litres a second, hour by hour, each predicted before its answer was sent."""

    actual: list[float] = field(default_factory=list)
    predicted: list[float] = field(default_factory=list)
    last: list[float] = field(default_factory=list)
    """The baseline's answers."""

    def mae(self) -> float | None:
        return _mean_gap(self.predicted, self.actual)

    def baseline_mae(self) -> float | None:
        return _mean_gap(self.last, self.actual)


def _mean_gap(answers: list[float], actual: list[float]) -> float | None:
    count = min(len(answers), len(actual))
    return float(np.abs(np.subtract(answers[:count], actual[:count])).mean()) if count else None


class Board:
    """All of it. Each field has one writer; readers may see it a moment old."""

    def __init__(self, held_out: HeldOut, digits: list[int], hours: int, planned_s: float) -> None:
        self.held_out = held_out
        self.address = ""
        self.planned_s = planned_s
        self.tally = Tally()
        self.freshness = {service: Freshness() for service in SERVICES}
        self.phase = 0
        """Of the digits acknowledged last."""
        self.digits_each = digits
        """By phase."""
        self.digits_total = sum(digits)
        self.digits_sent = 0
        self.hours_total = hours
        self.ours = Recall(held_out)
        self.naive = Recall(held_out)
        self.flow = FlowErrors()
        self.status: dict[str, dict[str, Any]] = {}
        """The newest status frame of each service."""
        self.now = "starting the server and two learners"
        self.moments: list[Moment] = []
        self.stop = threading.Event()
        """Set when every client is to end."""
        self.has_trained = threading.Event()
        """Set when a base of the digits was trained."""
        self._began: float | None = None

    def begin(self) -> None:
        """The streams start now."""
        self._began = time.monotonic()

    def elapsed_s(self) -> float:
        return 0.0 if self._began is None else time.monotonic() - self._began

    def tell(self, text: str, *, alarming: bool = False) -> None:
        self.moments.append(Moment(self.elapsed_s(), text, alarming))

    def in_words(self) -> str:
        """One line: how far the streams are."""
        ours, naive = self.ours.of(), self.naive.of()
        shares = "" if ours is None or naive is None else f", right {ours:.0%} (naive {naive:.0%})"
        mae, baseline = self.flow.mae(), self.flow.baseline_mae()
        errors = "" if mae is None or baseline is None else f", error {mae:.3f} (last value {baseline:.3f})"
        return (
            f"digits {self.digits_sent:,} of {self.digits_total:,}{shares}; "
            f"flow {len(self.flow.actual):,} of {self.hours_total:,} hours{errors}"
        )

    def phase_progress(self, phase: int) -> float:
        """The share of a phase's digits that have been acknowledged."""
        before = sum(self.digits_each[:phase])
        return float(np.clip((self.digits_sent - before) / self.digits_each[phase], 0.0, 1.0))

    def count(self, service: str, *path: str) -> int:
        """A number out of a service's newest status frame, 0 before the first."""
        value: Any = self.status.get(service, {})
        for name in path:
            value = value.get(name, {})
        return value if isinstance(value, int) else 0
