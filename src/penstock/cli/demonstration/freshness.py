"""How soon an acknowledged event changes what is served, seen from outside: from acknowledgements and predictions."""

from __future__ import annotations

import threading
from collections import deque

import numpy as np

from penstock.cli.demonstration.wire import Ack, Answer, Marks, covers


class Freshness:
    """Collects one service's acknowledgements and the predictions made meanwhile, by whichever client."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Ack] = deque()
        self._newest: Ack | None = None
        self._measured: list[tuple[float, float]] = []
        self._killed_at: float | None = None
        self._caught_up_ms: float | None = None
        self._closed = False

    def acknowledged(self, ack: Ack) -> None:
        with self._changed:
            self._waiting.append(ack)
            if self._newest is None or covers(ack.position, self._newest.position):
                self._newest = ack
            self._changed.notify_all()

    def newest(self) -> Ack | None:
        """What was acknowledged last; to be taken before a prediction is asked for."""
        with self._changed:
            return self._newest

    def predicted(self, answer: Answer, newest_before: Ack | None) -> None:
        """A prediction was made: every waiting event that its version includes has now been seen."""
        with self._changed:
            still: deque[Ack] = deque()
            for ack in self._waiting:
                if covers(answer.position, ack.position):
                    delay = max(answer.at - ack.at, 0.0) * 1000
                    self._measured.append((ack.at, delay))
                else:
                    still.append(ack)
            self._waiting = still
            killed = self._killed_at
            if killed is None or self._caught_up_ms is not None or newest_before is None:
                return
            if newest_before.at > killed and covers(answer.position, newest_before.position):
                self._caught_up_ms = (answer.at - killed) * 1000

    def killed(self, at: float) -> None:
        """The service's learner was killed now."""
        with self._changed:
            self._killed_at = at
            self._caught_up_ms = None

    def caught_up_ms(self) -> float | None:
        """From the kill to the first prediction that included everything acknowledged before it was asked for, an event
        that was acknowledged after the kill among it; None while that has not been seen."""
        with self._changed:
            return self._caught_up_ms

    def wait(self, timeout_s: float) -> Marks | None:
        """Until an acknowledged event has not been seen in a prediction: its position, or None at the timeout."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed, timeout_s)
            return self._waiting[0].position if self._waiting else None

    def oldest_at(self) -> float | None:
        """When the event that has been waiting longest was acknowledged."""
        with self._changed:
            return self._waiting[0].at if self._waiting else None

    def unseen(self) -> int:
        """Acknowledgements that no prediction has included yet."""
        with self._changed:
            return len(self._waiting)

    def measured(self) -> list[tuple[float, float]]:
        """Of each acknowledgement seen in a prediction: when it arrived (monotonic clock, s), and the delay (ms)."""
        with self._changed:
            return list(self._measured)

    def close(self) -> None:
        """Wake whoever waits."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def percentile(values: list[float], percent: float) -> float | None:
    """None of nothing."""
    return float(np.percentile(values, percent)) if values else None
