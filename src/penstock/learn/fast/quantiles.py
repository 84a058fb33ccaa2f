"""Quantiles of what is to come, each kept right by its own record of outcomes below and above it."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RATE = 0.05
"""How far a quantile moves for one outcome, in spreads."""
BLOCK = 16
"""Outcomes of a step that are counted against the same quantiles before these move: a step's answers were all given
at once, and as many outcomes at one quantile would throw it far beyond where it belongs."""

LEVEL_RATE = 0.01
"""How far a level moves for one outcome."""
LEVEL_MIN = 1e-4
LOCAL_RATE = 0.1
"""Of the local spread's first-order steps, in AdaGrad's units."""
NORMAL_LOG = -0.635
"""The mean of ln |z| of a standard normal z."""
LOCAL_MAX = 2.0
"""How far the local spread may be from the common one, as a logarithm: a factor of 7 either way."""


class LocalSpread:
    """How much larger errors are here than elsewhere, as far as the inputs tell: a log-linear model of |error|.

    The mean of ln |error| is linear in the inputs (Harvey 1976, "Estimating regression models with multiplicative
    heteroscedasticity"), learned by AdaGrad (Duchi et al. 2011) on squared differences. It begins at one everywhere."""

    def __init__(self, width: int) -> None:
        self.weights = np.zeros(max(width, 0))
        self._slopes = np.full(max(width, 0), 1e-8)

    def of(self, inputs: Array) -> Array:
        """(n,) factors for (n, width) inputs with a one among them."""
        logs = inputs @ self.weights
        result: Array = np.exp(np.minimum(np.maximum(logs, -LOCAL_MAX), LOCAL_MAX))
        return result

    def grow(self, width: int) -> None:
        """Take in further inputs, which say nothing yet."""
        more = width - len(self.weights)
        self.weights = np.concatenate((self.weights, np.zeros(more)))
        self._slopes = np.concatenate((self._slopes, np.full(more, 1e-8)))

    def learn(self, inputs: Array, factors: Array, errors: Array) -> None:
        """From (n, width) inputs, the factors they had, and (n,) errors in common spreads."""
        logs = np.log(np.minimum(np.maximum(np.abs(errors), 0.05), 20.0)) - NORMAL_LOG
        gradient = inputs.T @ (np.log(factors) - logs) / len(errors)
        self._slopes += gradient * gradient
        self.weights = self.weights - LOCAL_RATE * gradient / np.sqrt(self._slopes)

    def frozen(self) -> NDArray[Any]:
        """(2, width) everything."""
        return np.array([self.weights, self._slopes])

    def thaw(self, array: NDArray[Any]) -> None:
        """Become what was frozen."""
        self.weights, self._slopes = array[0].copy(), array[1].copy()


class TrackedQuantiles:
    """Distances of quantiles from the mean, in spreads, for any distribution.

    Each distance descends the pinball loss of the standardised errors as they come: it rises by rate x level where an
    outcome lies above and falls by rate x (1 - level) where one lies at or below it. This is the quantile tracker of
    Angelopoulos, Candes and Tibshirani (2023), "Conformal PID control for time series prediction", in the manner of
    Gibbs and Candes (2021): whatever the stream does, of n outcomes a share within (range of the distance) / (rate n)
    of the level lies below. Answers are put in order (Chernozhukov, Fernandez-Val and Galichon 2010), which never makes
    their pinball loss larger, since neighbours that move by themselves may cross for a moment.
    """

    def __init__(self, levels: Sequence[float]) -> None:
        self.levels = tuple(levels)
        """Ascending, each between 0 and 1."""
        self.distances = np.array([NormalDist().inv_cdf(level) for level in levels])
        """(levels,) in spreads; those of a normal distribution at first."""

    def of(self, mean: Array, spread: Array) -> Array | None:
        """(n, levels) quantiles around (n,) means, ascending in every row; None where there are no levels."""
        if not self.levels:
            return None
        quantiles: Array = mean[:, None] + spread[:, None] * np.sort(self.distances)
        return quantiles

    def track(self, errors: Array) -> None:
        """Take (n,) errors of the mean, in spreads, in their order."""
        if not self.levels:
            return
        levels = np.array(self.levels)
        for start in range(0, len(errors), BLOCK):
            block = errors[start : start + BLOCK]
            below = (block[:, None] <= self.distances).sum(axis=0)
            self.distances = self.distances + RATE * (len(block) * levels - below)

    def frozen(self) -> NDArray[Any]:
        """(2, levels) levels and distances."""
        return np.array([self.levels, self.distances], dtype=np.float64).reshape(2, -1)

    def thaw(self, array: NDArray[Any]) -> None:
        """Go on with what was frozen; a level that was not among them, since the service's may change, begins anew."""
        kept = dict(zip(array[0].tolist(), array[1].tolist(), strict=True))
        self.distances = np.array(
            [kept.get(level, distance) for level, distance in zip(self.levels, self.distances.tolist(), strict=True)]
        )


class TrackedLevels:
    """Levels at which a distribution is asked for its quantiles, so that shares come right though it is not.

    Gibbs and Candes (2021), "Adaptive conformal inference under distribution shift": a level falls by rate x
    (1 - wanted) when the outcome lay below the quantile at it, and rises by rate x wanted otherwise. Where counts are
    few, much of the distribution stands on one of them; an outcome there counts by the share of its probability that
    lies below the level, as a randomised outcome would in the mean (Czado, Gneiting and Held 2009), so that a model
    that is right stays as it is."""

    def __init__(self, levels: Sequence[float]) -> None:
        self.wanted = np.array(sorted(set(levels)))
        self.levels = self.wanted.copy()

    def asked(self) -> Array:
        """(wanted,) ascending levels to ask for."""
        sorted_levels: Array = np.sort(self.levels)
        return sorted_levels

    def places(self, levels: Sequence[float]) -> list[int]:
        """Where these stand among those wanted."""
        return [int(place) for place in np.searchsorted(self.wanted, levels)]

    def track(self, before: Array, here: Array) -> None:
        """Take (n,) probabilities that had been given to what lies before the outcomes, and to the outcomes."""
        for start in range(0, len(before), BLOCK):
            part = slice(start, start + BLOCK)
            chance = np.maximum(here[part, None], 1e-12)
            below = np.clip((self.levels - before[part, None]) / chance, 0.0, 1.0)
            moved = self.levels + LEVEL_RATE * (len(below) * self.wanted - below.sum(axis=0))
            self.levels = np.clip(moved, LEVEL_MIN, 1.0 - LEVEL_MIN)

    def frozen(self) -> NDArray[Any]:
        """(2, wanted) wanted and asked."""
        return np.array([self.wanted, self.levels])

    def thaw(self, array: NDArray[Any]) -> None:
        """Go on with what was frozen; a level that was not wanted then begins anew."""
        kept = dict(zip(array[0].tolist(), array[1].tolist(), strict=True))
        self.levels = np.array([kept.get(level, level) for level in self.wanted.tolist()])
