"""Counts: rates and dispersions of the members, and how they learn from an outcome.

Every head is a Poisson regression with a log link, in multiples of the mean count so far, learned by online Newton
steps (see `links` and `heads`). What it cannot explain is overdispersion: a head's steps count an event for as much
less as its errors are larger than Poisson's (quasi-likelihood, Wedderburn 1974), and its probabilities are negative
binomial with variance mean + a mean^2, where a is estimated by moments as events fade.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.learn.fast import counting
from penstock.learn.fast.banks import Banks
from penstock.learn.fast.layout import BASES, Layout
from penstock.learn.fast.links import LOG_LEAST, LOG_MOST
from penstock.learn.fast.mixture import fixed_share
from penstock.learn.fast.quantiles import TrackedLevels
from penstock.learn.fast.said import NUMBERS, Said, numbers, of_numbers
from penstock.spec import COUNT_MAX

Array = NDArray[np.float64]
Arrays = Mapping[str, NDArray[Any]]

RATE_MIN = 1e-9
FLOOR = -14.0
"""A log probability below counts as this: a member that was certain and wrong once can come back."""
LOSS_NATS = 16.0
"""A log loss that counts as 1."""
DISPERSION_HALF_LIFE = 256.0
DISPERSION_FIRST = 1.0
"""Of the variance, in squared means, before there are errors to tell; as good as 8 events."""
OUTLIER = 8.0
"""After WARM_UP outcomes, one further above the answer than this many spreads counts as that far, but for the loss."""
WARM_UP = 64


@dataclass(slots=True)
class Answer:
    """What the members said of n events."""

    rates: Array
    """(n, members) mean counts."""
    mean: Array
    """(n,) of the mixture."""
    variance: Array
    """(n,) of the mixture."""


class CountMembers:
    """What predicting needs: weights of all heads, the members' dispersions, the levels of quantiles, the mixture."""

    def __init__(
        self, layout: Layout, linear_from: int, width: int, coverage: float, quantiles: Sequence[float] = ()
    ) -> None:
        self.layout = layout
        self.linear_from = linear_from
        self.weights = np.zeros((width, 1, layout.heads))
        self.mixture = np.full(layout.members, 1.0 / layout.members)
        self.dispersions = np.full(layout.members, DISPERSION_FIRST)
        """(members,) a in variance = mean + a mean^2."""
        self.recent = 0.5
        """The mean of recent counts."""
        self.unit = 0.5
        """The mean of all counts, and half a count more among all of them: heads say ln(rate / unit)."""
        self.outcomes = 0.0
        ends = (0.5 - coverage / 2.0, 0.5 + coverage / 2.0)
        self.levels = TrackedLevels((*ends, *quantiles))
        self._ends = self.levels.places(ends)
        self._quantiles = self.levels.places(quantiles)

    def answer(self, features: Array, others: Array | None = None) -> Answer:
        """Of (n, width) features, and of (n, others) mean counts of the members that are no heads; without these the
        mean has no meaning, and what the heads say has."""
        rates = np.empty((len(features), self.layout.members))
        heads_end = BASES + self.layout.heads
        logs = features @ self.weights[:, 0]
        rates[:, 0] = self.recent
        rates[:, 1] = self.unit
        rates[:, BASES:heads_end] = self.unit * np.exp(np.clip(logs, LOG_LEAST, LOG_MOST))
        rates[:, heads_end:] = self.unit if others is None else others
        np.clip(rates, RATE_MIN, COUNT_MAX, out=rates)
        mean = rates @ self.mixture
        square = (rates + (1.0 + self.dispersions) * rates * rates) @ self.mixture
        return Answer(rates, mean, np.maximum(square - mean * mean, mean))

    def numbers(self, answer: Answer) -> tuple[Array, Array, Array | None]:
        """(n,) low and high ends of the interval, and (n, levels) the quantiles asked for, all of them counts."""
        found = counting.quantiles(self.levels.asked(), answer.mean, answer.variance)
        return found[:, self._ends[0]], found[:, self._ends[1]], found[:, self._quantiles] if self._quantiles else None

    def said(self, answer: Answer, mark: int) -> Said | None:
        """What is kept of answers until their labels come; nothing before WARM_UP outcomes."""
        if self.outcomes < WARM_UP:
            return None
        return of_numbers(answer.rates, answer.mean, answer.variance, np.ones(len(answer.mean)), mark)

    def asked(self, now: Answer, said: Said | None, mark: int) -> Answer:
        """The answers that were given when the events were asked for, where they were kept, and those of now
        elsewhere."""
        told, kept = numbers(said, self.layout.members, mark)
        if not len(told):
            return now
        rates, mean, variance = now.rates.copy(), now.mean.copy(), now.variance.copy()
        rates[told], mean[told], variance[told] = kept[:, NUMBERS:], kept[:, 0], kept[:, 1]
        return Answer(rates, mean, variance)

    def frozen(self) -> dict[str, NDArray[Any]]:
        """Copies of everything."""
        return {
            "weights": self.weights.copy(),
            "mixture": self.mixture.copy(),
            "dispersions": self.dispersions.copy(),
            "numbers": np.array([self.recent, self.unit, self.outcomes]),
            "levels": self.levels.frozen(),
        }

    def thaw(self, arrays: Arrays, *, copy: bool) -> None:
        """Become what was frozen; without copies for predicting alone."""
        self.weights = arrays["weights"].copy() if copy else arrays["weights"]
        self.mixture = arrays["mixture"].copy() if copy else arrays["mixture"]
        self.dispersions = arrays["dispersions"].copy() if copy else arrays["dispersions"]
        self.recent, self.unit, self.outcomes = map(float, arrays["numbers"])
        self.levels.thaw(arrays["levels"])


class CountLearner:
    """What learning needs beside the members."""

    def __init__(
        self, layout: Layout, linear_from: int, width: int, coverage: float, quantiles: Sequence[float] = ()
    ) -> None:
        self.members = CountMembers(layout, linear_from, width, coverage, quantiles)
        self._layout = layout
        self._linear_from = linear_from
        self._banks = Banks(layout, linear_from, width)
        self._recent_decay = float(layout.decays[0])
        # By member, fading: errors squared, means, and means squared. They begin with eight events at one count that
        # have the first dispersion.
        self._squares = np.full(layout.members, 8.0 * (1.0 + DISPERSION_FIRST))
        self._means = np.full(layout.members, 8.0)
        self._mean_squares = np.full(layout.members, 8.0)
        self._pearson = np.full(layout.members, 8.0)
        self._pearson_weight = 8.0

    @property
    def width(self) -> int:
        """Features."""
        return int(self.members.weights.shape[0])

    def grow(self, width: int) -> None:
        """Take in new features, with weight zero."""
        self._banks.grow(width, self.members.weights)
        weights = np.zeros((width, 1, self._layout.heads))
        weights[: self.width] = self.members.weights
        self.members.weights = weights

    def within_reach(self, answer: Answer, labels: Array) -> Array:
        """(n,) counts, those far above what was answered cut."""
        if self.members.outcomes < WARM_UP:
            return labels
        return np.minimum(labels, np.floor(answer.mean + OUTLIER * np.sqrt(answer.variance) + OUTLIER))

    def absorb(self, labels: Array) -> None:
        """Take (n,) counts into the unit; weights are rewritten so that every prediction stays what it was."""
        members, n = self.members, len(labels)
        total = members.unit * (members.outcomes + 1.0) if members.outcomes else 0.5
        members.outcomes += n
        unit = (total + float(labels.sum())) / (members.outcomes + 1.0)
        if members.outcomes > n:
            members.weights[self._linear_from] += np.log(members.unit / unit)
        else:
            members.recent = unit
        members.unit = unit

    def learn(self, features: Array, labels: Array) -> None:
        """From (n, width) features and (n,) counts."""
        members, n = self.members, len(features)
        overdispersion = np.maximum(self._pearson / self._pearson_weight, 1.0)
        heads = slice(BASES, BASES + self._layout.heads)
        self._banks.learn(
            features, (labels / members.unit)[:, None], members.weights, deviations=members.unit / overdispersion[heads]
        )
        fade = self._recent_decay ** np.arange(n - 1, -1, -1.0)
        kept = self._recent_decay**n
        members.recent = members.recent * kept + (1.0 - self._recent_decay) * float(fade @ labels)

    def mix(self, answer: Answer, labels: Array) -> None:
        """Move the mixture, the dispersions and the levels by what the members had answered to (n,) counts."""
        members, n = self.members, len(labels)
        members.levels.track(*counting.below(labels, answer.mean, answer.variance))
        sizes = 1.0 / np.maximum(members.dispersions, 1.0 / (counting.POISSON * (answer.rates + 1.0)))
        logs = counting.log_probabilities(labels[:, None], answer.rates, sizes)
        members.mixture = fixed_share(members.mixture, np.maximum(logs, FLOOR))
        decay = 2.0 ** (-1.0 / DISPERSION_HALF_LIFE)
        fade, kept = decay ** np.arange(n - 1, -1, -1.0), decay**n
        # An error beyond eight spreads counts as eight, so that one wild count does not make all that follow vague.
        reach = OUTLIER * np.sqrt(answer.rates * (1.0 + members.dispersions * answer.rates)) + OUTLIER
        squares = np.minimum(np.abs(labels[:, None] - answer.rates), reach) ** 2
        self._squares = kept * self._squares + fade @ squares
        self._means = kept * self._means + fade @ answer.rates
        self._mean_squares = kept * self._mean_squares + fade @ (answer.rates * answer.rates)
        self._pearson = kept * self._pearson + fade @ (squares / answer.rates)
        self._pearson_weight = kept * self._pearson_weight + float(fade.sum())
        members.dispersions = np.maximum(self._squares - self._means, 0.0) / self._mean_squares

    def save(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Plain values, and copies of arrays."""
        sums = np.stack([self._squares, self._means, self._mean_squares, self._pearson])
        arrays = self.members.frozen() | self._banks.save() | {"sums": sums}
        return {"pearson_weight": self._pearson_weight}, arrays

    def load(self, values: Mapping[str, Any], arrays: Arrays) -> None:
        """Become what was saved."""
        self.members.thaw(arrays, copy=True)
        self._banks.load(arrays)
        self._squares, self._means, self._mean_squares, self._pearson = arrays["sums"].copy()
        self._pearson_weight = values["pearson_weight"]


def places_of_counts(labels: Array) -> NDArray[np.intp] | None:
    """Places of the labels that are counts, where some are not; None where all are."""
    counts = (labels >= 0.0) & (labels <= COUNT_MAX) & (labels == np.floor(labels))
    return None if counts.all() else np.flatnonzero(counts)


def count_losses(mean: Array, variance: Array, labels: Array) -> Array:
    """(n,) the log loss of the negative binomial with this mean and variance, in multiples of LOSS_NATS and cut at 1:
    least, up to the cut, for the true distribution."""
    counts = np.clip(labels, 0.0, COUNT_MAX)
    logs = counting.log_probabilities(counts, mean, counting.sizes(mean, variance))
    return np.minimum(np.maximum(-logs / LOSS_NATS, 0.0), 1.0)
