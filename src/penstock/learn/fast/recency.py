"""How recently inputs like these arrived: what tells the past that comes back from the present.

Ridge regression of an event's fading weight g^age on its features, over all events so far, estimates at x the ratio of
the recent density to the density of all time, as least-squares importance fitting does (Kanamori, Hido and Sugiyama
2009). Inputs of a regime that ended long ago have a recency near zero, whatever there are of them. What is low is told
by the recency of the latest events themselves, when they came: hardly any of them may pass for the past.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

HALF_LIFE = 1024.0
"""Events after which one counts half as recent."""
DECAY = 2.0 ** (-1.0 / HALF_LIFE)
READ_MAX = 257
"""Features that are read at most: those of the base and random ones, which come first, and inputs as far as it goes."""
PRIOR = 1.0
WHOLE = 8192
"""Events that all enter the second moments."""
SAMPLED = 8
"""One in so many does later, drawn by its number, for as many; the first moments have them all."""
SOLVED_EVERY = 256
"""Events between two solutions."""
WINDOW = 1024
"""Latest events whose recency says what is usual."""
WINDOW_MIN = 256
UNUSUAL = 0.05
"""Share of the latest events below which a recency is low."""
WAITING_MAX = 32
"""Events that wait for their place in the second moments: as many at once cost little more than one of them."""
LOOKED_EVERY = 16
"""Events between two looks at what is usual."""
_MIX = np.uint64(0x9E3779B97F4A7C15)
"""Odd, and without a pattern: times an event's number, modulo 2^64, it draws the sample."""


class Recency:
    """What answering needs: a direction, and what is low along it."""

    def __init__(self, width: int) -> None:
        self.direction: Array = np.zeros(min(width, READ_MAX))
        self.low = 0.0
        """Where not above zero, nothing is taken for the past."""

    def of(self, features: Array) -> Array:
        """(n,) recency of (n, width) features."""
        recency: Array = features[:, : len(self.direction)] @ self.direction
        return recency

    def past(self, recency: Array) -> Array:
        """(n,) from 0 to 1, how far each can be taken for the past: wholly below a third of what is low, and not at all
        above two thirds, since the present sinks, too, while a regime goes on."""
        if self.low <= 0.0:
            return np.zeros(len(recency))
        return np.minimum(np.maximum(2.0 - recency * (3.0 / self.low), 0.0), 1.0)

    def frozen(self) -> dict[str, NDArray[Any]]:
        """Copies of everything."""
        return {"recency.direction": self.direction.copy(), "recency.low": np.array([self.low])}

    def thaw(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Become what was frozen."""
        self.direction = arrays["recency.direction"].copy()
        self.low = float(arrays["recency.low"][0])


class RecencyLearner:
    """What learning needs beside: the moments, and the latest events' recency."""

    def __init__(self, recency: Recency) -> None:
        # The compiler is loaded by whoever learns, and by nobody else.
        from penstock.learn.fast.tallies import remember

        self._remember = remember
        self._recency = recency
        width = len(recency.direction)
        self._all: Array = np.zeros((width, width))
        """Second moments."""
        self._waiting: Array = np.zeros((WAITING_MAX, width))
        """Weighted rows that are not in them yet; the first so many count."""
        self._recent: Array = np.zeros(width)
        """First moments, fading."""
        self._latest: Array = np.zeros(WINDOW)
        """Recency of the latest events, by their number modulo WINDOW."""
        self._counts = np.zeros(3, np.int64)
        """Events so far, those among the latest, ever, and those that wait."""

    def grow(self, width: int) -> None:
        """Take in new features at the end."""
        width, old = min(width, READ_MAX), len(self._recent)
        if width == old:
            return
        self._take_in()
        self._waiting = np.zeros((WAITING_MAX, width))
        moments = np.zeros((width, width))
        moments[:old, :old] = self._all
        self._all = moments
        self._recent = np.concatenate((self._recent, np.zeros(width - old)))
        self._recency.direction = np.concatenate((self._recency.direction, np.zeros(width - old)))

    def learn(self, features: Array, recency: Array) -> None:
        """From (n, width) features, and what was said of their (n,) recency before."""
        n, before, said = len(features), int(self._counts[0]), int(self._counts[1])
        if n > WAITING_MAX:
            self._learn_many(features[:, : len(self._recent)], recency)
        else:
            done = 0
            while done < n:
                done = self._remember(
                    features, recency, done, DECAY, WHOLE, SAMPLED, _MIX, before >= SOLVED_EVERY, self._recent,
                    self._waiting, self._latest, self._counts,
                )  # fmt: skip
                if self._counts[2] == WAITING_MAX:
                    self._take_in()
        after, held = int(self._counts[1]), min(int(self._counts[1]), WINDOW)
        if after >= WINDOW_MIN and said // LOOKED_EVERY != after // LOOKED_EVERY:
            place = int(UNUSUAL * held)
            self._recency.low = float(np.partition(self._latest[:held], place)[place])
        if before // SOLVED_EVERY != (before + n) // SOLVED_EVERY:
            self._take_in()
            moments = self._all.copy()
            moments.ravel()[:: len(moments) + 1] += PRIOR
            solution: Array = np.linalg.solve(moments, self._recent).astype(np.float64, copy=False)
            self._recency.direction = solution

    def _learn_many(self, rows: Array, recency: Array) -> None:
        n, before = len(rows), int(self._counts[0])
        after = before + n
        self._counts[0] = after
        if before >= SOLVED_EVERY:
            # Before, nothing was known that could be said.
            said = int(self._counts[1])
            self._counts[1] = said + n
            places = np.arange(max(said, said + n - WINDOW), said + n)
            self._latest[places % WINDOW] = recency[places - said]
        self._recent *= DECAY**n
        self._recent += DECAY ** np.arange(n - 1, -1, -1.0) @ rows
        whole = rows[: max(WHOLE - before, 0)]
        if len(whole):
            self._all += whole.T @ whole
        numbers = np.arange(before + len(whole), after, dtype=np.uint64) * _MIX
        drawn = rows[len(whole) :][numbers < np.uint64(2**64 // SAMPLED)]
        if len(drawn):
            self._all += SAMPLED * (drawn.T @ drawn)

    def _take_in(self) -> None:
        waiting = self._waiting[: self._counts[2]]
        self._all += waiting.T @ waiting
        self._counts[2] = 0

    def save(self) -> dict[str, NDArray[Any]]:
        """Copies of everything but what is frozen."""
        return {
            "recency.all": self._all.copy(),
            "recency.waiting": self._waiting[: self._counts[2]].copy(),
            "recency.recent": self._recent.copy(),
            "recency.latest": self._latest[: self._counts[1]].copy(),
            "recency.counts": self._counts.copy(),
        }

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Become what was saved; the direction is thawed apart."""
        self._all = arrays["recency.all"].copy()
        waiting, latest = arrays["recency.waiting"], arrays["recency.latest"]
        self._waiting = np.zeros((WAITING_MAX, waiting.shape[1]))
        self._waiting[: len(waiting)] = waiting
        self._recent = arrays["recency.recent"].copy()
        self._latest = np.zeros(WINDOW)
        self._latest[: len(latest)] = latest
        self._counts = arrays["recency.counts"].copy()
