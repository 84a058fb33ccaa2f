"""How far the learner is behind."""

from __future__ import annotations

import numpy as np

from penstock.control.simulate.outcome import Freshness
from penstock.control.simulate.scenario import Learning


class Backlog:
    """Events that wait for the learner, as a fluid: so many a second come, so many are learned."""

    def __init__(self, learning: Learning | None) -> None:
        self.learning = learning
        self.events, self.came, self.t, self.down_s = 0.0, 0, 0.0, 0.0
        self.seen: list[float] = []
        self.late_s: list[float] = []

    def look(self, now: float, came: int, *, learning: bool) -> None:
        """Note how things stand."""
        assert self.learning is not None
        passed_s, self.t = now - self.t, now
        self.events += (came - self.came) * self.learning.events_per_request
        self.came = came
        if learning:
            self.events = max(0.0, self.events - passed_s * self.learning.rate_eps)
        else:
            self.down_s += passed_s
        self.seen.append(self.events)
        self.late_s.append(self.events / self.learning.rate_eps + self.learning.publish_s)

    def freshness(self) -> Freshness | None:
        """A summary; None without a learner."""
        if self.learning is None or not self.seen:
            return None
        p50, p99 = np.quantile(self.late_s, [0.5, 0.99])
        return Freshness(
            backlog_max=max(self.seen),
            backlog_end=self.events,
            p50_s=float(p50),
            p99_s=float(p99),
            down_s=self.down_s,
        )
