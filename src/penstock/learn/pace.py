"""How long a step may be: as short as the backlog allows, since short steps learn more from each event.

A step of m events costs about a + b m seconds, and a model sees what came within a step only after it. So a backlog is
cut into steps that are no longer than catching up in time needs. Times are arguments; what comes of them is recorded
with each step, so that a replay does not depend on them.
"""

from __future__ import annotations

import math

STEP_MIN = 64
"""Events below which a step is not shortened: it costs hardly less, and nothing more is gained."""
RATE_MEMORY_S = 3.0
"""Seconds over which the rate of arrivals fades by a factor e: a file that is sent at once is no rate yet."""
HEADROOM = 2.0
"""Times the rate of arrivals is planned for, so that a backlog shrinks while events go on to arrive."""
PAUSE_S = 0.2
"""What arrives within so many seconds at the usual rate piled up while the learner wrote a checkpoint or was not given
the processor. It is taken at once: to be as fresh as before is worth more than a longer step costs."""
COST_MEMORY = 0.95
"""What a measured step counts for after each later one."""
OUTLIER = 4.0
"""Times the expected cost from which on a step was interrupted: more than that is not believed."""
USUAL = ((64.0, 4e-3), (1024.0, 10e-3))
"""(events, seconds) of steps that are believed in before any was measured, as much as one step of each."""


class Pace:
    """Estimates what steps cost and how fast events arrive, and says how long the next step should be."""

    def __init__(self, step_max: int, catch_up_s: float) -> None:
        self._step_max = step_max
        self._catch_up_s = catch_up_s
        self._rate = 0.0
        self._end = 0
        self._at: float | None = None
        self._planned = 0.0
        """Events a second that the present backlog takes, from when it was longest; 0 when there is none."""
        # Sums of weight, events, seconds, events^2 and events * seconds over the steps measured.
        self._sums = [0.0] * 5
        for events, seconds in USUAL:
            self._add(events, seconds)

    def arrived(self, end: int, now: float) -> None:
        """All that was ever appended comes to ``end`` events at the time ``now``, in seconds of a steady clock."""
        if self._at is None:
            self._end, self._at = end, now
        elapsed = now - self._at
        if elapsed > 0.0:
            kept = math.exp(-elapsed / RATE_MEMORY_S)
            self._rate = kept * self._rate + (1.0 - kept) * (end - self._end) / elapsed
            self._end, self._at = end, now

    def cost(self, events: int, seconds: float) -> None:
        """A step of so many events took so long."""
        a, b = self._line()
        self._sums = [COST_MEMORY * total for total in self._sums]
        self._add(float(events), min(max(seconds, 0.0), OUTLIER * (a + b * events)))

    def size(self, waiting: int) -> int:
        """Events of the next step when so many are waiting."""
        if waiting <= max(STEP_MIN, PAUSE_S * self._rate) or not self._catch_up_s:
            self._planned = 0.0
            return min(waiting, self._step_max)
        a, b = self._line()
        self._planned = max(self._planned, waiting / self._catch_up_s)
        needed_per_s = HEADROOM * self._rate + self._planned
        # A step of m events handles m / (a + b m) events a second.
        share = 1.0 - b * needed_per_s
        longest = self._step_max
        if share > 0.0:
            longest = int(min(longest, max(STEP_MIN, math.ceil(a * needed_per_s / share))))
        longest = min(longest, self._step_max)
        if longest >= waiting:
            self._planned = 0.0
        # Equal steps, and no short one at the end.
        return math.ceil(waiting / math.ceil(waiting / longest))

    def _line(self) -> tuple[float, float]:
        """Seconds a step and seconds an event, by least squares, both above zero."""
        weight, events, seconds, squares, products = self._sums
        mean = events / weight
        spread = squares - events * mean
        b = (products - mean * seconds) / spread if spread > 1e-6 * squares else 0.0
        b = max(b, 1e-7)
        return max(seconds / weight - b * mean, 1e-4), b

    def _add(self, events: float, seconds: float) -> None:
        parts = (1.0, events, seconds, events * events, events * seconds)
        self._sums = [total + part for total, part in zip(self._sums, parts, strict=True)]
