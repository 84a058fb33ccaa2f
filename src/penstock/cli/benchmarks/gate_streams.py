"""Simulated streams for `penstock bench gate`: what two versions lose on the same events, in the order of their labels.

An event comes every second and its label some time later: 100 s in the mean for one class and three times as long for
the other, in which the versions disagree less often. Versions are compared in the order in which labels come.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

DELAY_S = (100.0, 300.0)
"""Mean delay of the labels of either class; the delays themselves are exponential."""
DISAGREEMENT = (1.5, 0.5)
"""Times the mean disagreement, so often the versions disagree in either class: fast labels are no fair sample."""


class Rivals(msgspec.Struct, frozen=True, kw_only=True):
    """Two versions that answer right or wrong."""

    gain: float
    """Points of accuracy (0.01 a point) by which the second is better."""
    disagreement: float
    """Share of the events on which one is right and the other wrong."""

    @property
    def variance(self) -> float:
        """Of the difference of an event."""
        return self.disagreement - self.gain**2

    def differences(self, rng: np.random.Generator, n: int) -> Array:
        """(n,) loss of the first minus loss of the second, -1, 0 or 1, in the order of the labels."""
        order, classes = labels_in_order(rng, n)
        share = np.asarray(DISAGREEMENT)[classes] * self.disagreement
        differ = rng.random(n) < share
        # The same gain in both classes, or else fast labels would say that there is another one.
        wins = rng.random(n) < 0.5 + self.gain / (2.0 * share)
        found: Array = np.where(differ, np.where(wins, 1.0, -1.0), 0.0)[order]
        return found


def labels_in_order(rng: np.random.Generator, n: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(n,) the events in the order in which their labels come, and (n,) the class of each event."""
    classes = (rng.random(n) < 0.5).astype(np.intp)
    arrives = np.arange(n) + rng.exponential(np.asarray(DELAY_S)[classes])
    return np.argsort(arrives, kind="stable"), classes


class Changing(msgspec.Struct, frozen=True, kw_only=True):
    """What is served does harm from some event on, an event more than what it is compared with."""

    name: str
    disagreement: float
    before: int
    """Events without harm."""
    after: int
    harm: Callable[[NDArray[np.intp]], Array]
    """Of the events since the change, (n,), what each does."""

    def expected(self) -> Array:
        """(before + after,) the harm that each event is expected to do, in the order in which events come."""
        return np.concatenate([np.zeros(self.before), self.harm(np.arange(self.after))])

    def drawn(self, rng: np.random.Generator) -> tuple[Array, Array, Array]:
        """In the order of the labels: (n,) the loss of what is served, (n,) that of the last known good version, and
        (n,) how many events had come when each label did."""
        n = self.before + self.after
        order, classes = labels_in_order(rng, n)
        delays = np.asarray(DELAY_S)[classes]
        came = np.arange(n) + rng.exponential(delays)
        order = np.argsort(came, kind="stable")
        harm = self.expected()
        share = np.maximum(np.asarray(DISAGREEMENT)[classes] * self.disagreement, harm)
        differ = rng.random(n) < share
        loses = rng.random(n) < 0.5 + harm / (2.0 * share)
        both = rng.random(n) < 0.1
        served = np.where(differ, loses, both).astype(np.float64)[order]
        good = np.where(differ, ~loses, both).astype(np.float64)[order]
        return served, good, np.minimum(came[order], n)


SUDDEN = Changing(name="sudden", disagreement=0.1, before=1000, after=4000, harm=lambda since: np.full(len(since), 0.2))
GRADUAL = Changing(
    name="gradual",
    disagreement=0.1,
    before=1000,
    after=4000,
    harm=lambda since: 0.2 * np.minimum(since / 2000.0, 1.0),
)
POISONED = Changing(
    name="poisoned",
    disagreement=0.1,
    before=1000,
    after=4000,
    # What a burst of 500 wrong labels has taught within its first 200 fades slowly once right ones come again.
    harm=lambda since: 0.3 * np.minimum(since / 200.0, 1.0) * np.exp(-np.maximum(since - 500.0, 0.0) / 1500.0),
)
CHANGES = (SUDDEN, GRADUAL, POISONED)
