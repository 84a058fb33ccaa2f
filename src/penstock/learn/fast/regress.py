"""Numbers: means and spreads of the members, and how they learn from an outcome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.learn.fast.banks import Banks
from penstock.learn.fast.layout import BASES, Layout
from penstock.learn.fast.links import FARTHEST
from penstock.learn.fast.mixture import fixed_share
from penstock.learn.fast.quantiles import LocalSpread, TrackedQuantiles
from penstock.learn.fast.said import NUMBERS, Said, numbers, of_numbers

Array = NDArray[np.float64]
Arrays = Mapping[str, NDArray[Any]]

HUGE = 1e100
"""Outcomes are cut here, so that their squares stay finite."""
WARM_UP = 64
OUTLIER = 6.0
"""After WARM_UP outcomes, one further out than this many standard deviations counts as that far, like a feature's."""
SPREAD_HALF_LIFE = 256.0
"""Events after which a member's error counts half in its spread."""
TAILS = 4.0
"""Degrees of freedom of the members' Student densities in the mixture: one wild outcome does not decide between
them."""
INTERVAL_RATE = 0.02
"""How far the interval's width moves, as a logarithm, for one outcome outside."""


@dataclass(slots=True)
class Answer:
    """What the members said of n events, in standard units of the label."""

    means: Array
    """(n, members)."""
    mean: Array
    """(n,) of the mixture."""
    spread: Array
    """(n,) of the mixture: the members' own spreads and how far they disagree, times what is local."""
    local: Array
    """(n,) how much larger errors are here than elsewhere."""
    inputs: Array
    """(n, inputs) what that was told by."""


class NumberMembers:
    """What predicting needs: weights of all heads, the members' spreads, the label's unit, the interval, the
    mixture."""

    def __init__(
        self, layout: Layout, linear_from: int, width: int, coverage: float, quantiles: Sequence[float] = ()
    ) -> None:
        self.layout = layout
        self.linear_from = linear_from
        self.weights = np.zeros((width, 1, layout.heads))
        self.mixture = np.full(layout.members, 1.0 / layout.members)
        self.variances = np.ones(layout.members)
        self.recent = 0.0
        """The mean of recent outcomes, in standard units."""
        self.centre = 0.0
        self.unit = 1.0
        """The label's standard deviation; standard units are (y - centre) / unit."""
        self.outcomes = 0.0
        """How many it has learned from."""
        self.reach = NormalDist().inv_cdf(0.5 + coverage / 2.0)
        """Half the predictive interval, in spreads."""
        self.quantiles = TrackedQuantiles(quantiles)
        self.local = LocalSpread(width - linear_from)

    def answer(self, features: Array, others: Array | None = None) -> Answer:
        """Of (n, width) features, and of (n, others) means of the members that are no heads; without these the mean has
        no meaning, and what the heads say has."""
        means = np.empty((len(features), self.layout.members))
        heads_end = BASES + self.layout.heads
        means[:, 0] = self.recent
        means[:, 1] = 0.0
        means[:, BASES:heads_end] = features @ self.weights[:, 0]
        means[:, heads_end:] = 0.0 if others is None else others
        np.minimum(means, FARTHEST, out=means)
        np.maximum(means, -FARTHEST, out=means)
        mean = means @ self.mixture
        square = (means * means) @ self.mixture + float(self.variances @ self.mixture)
        inputs = features[:, self.linear_from :]
        local = self.local.of(inputs)
        return Answer(means, mean, np.sqrt(np.maximum(square - mean * mean, 1e-24)) * local, local, inputs)

    def standard(self, labels: Array) -> Array:
        """Outcomes in standard units, cut at FARTHEST twice over."""
        standard = (np.minimum(np.maximum(labels, -HUGE), HUGE) - self.centre) / self.unit
        result: Array = np.minimum(np.maximum(standard, -2 * FARTHEST), 2 * FARTHEST)
        return result

    def said(self, answer: Answer, anchors: Array, mark: int) -> Said | None:
        """What is kept of answers until their labels come; (n,) anchors are what they are measured from. Nothing in
        the beginning, when the label's unit means little and errors would be beyond all measure for long."""
        if self.outcomes < WARM_UP:
            return None
        from_here = self.centre + anchors
        means = answer.means * self.unit + from_here[:, None]
        return of_numbers(means, answer.mean * self.unit + from_here, answer.spread * self.unit, answer.local, mark)

    def asked(self, now: Answer, anchors: Array, said: Said | None, mark: int) -> Answer:
        """The answers that were given when the events were asked for, where they were kept, and those of now
        elsewhere; in standard units of now."""
        told, kept = numbers(said, self.layout.members, mark)
        if not len(told):
            return now
        means, mean, spread, local = now.means.copy(), now.mean.copy(), now.spread.copy(), now.local.copy()
        from_here = (self.centre + anchors[told])[:, None]
        given = np.clip((kept - from_here) / self.unit, -FARTHEST, FARTHEST)
        means[told], mean[told] = given[:, NUMBERS:], given[:, 0]
        spread[told], local[told] = np.maximum(kept[:, 1] / self.unit, 1e-12), kept[:, 2]
        return Answer(means, mean, spread, local, now.inputs)

    def frozen(self) -> dict[str, NDArray[Any]]:
        """Copies of everything."""
        numbers = np.array([self.recent, self.centre, self.unit, self.reach, self.outcomes])
        return {
            "weights": self.weights.copy(),
            "mixture": self.mixture.copy(),
            "variances": self.variances.copy(),
            "numbers": numbers,
            "quantiles": self.quantiles.frozen(),
            "local": self.local.frozen(),
        }

    def thaw(self, arrays: Arrays, *, copy: bool) -> None:
        """Become what was frozen; without copies for predicting alone."""
        self.weights = arrays["weights"].copy() if copy else arrays["weights"]
        self.mixture = arrays["mixture"].copy() if copy else arrays["mixture"]
        self.variances = arrays["variances"].copy() if copy else arrays["variances"]
        self.recent, self.centre, self.unit, self.reach, self.outcomes = map(float, arrays["numbers"])
        self.quantiles.thaw(arrays["quantiles"])
        self.local.thaw(arrays["local"])


class NumberLearner:
    """What learning needs beside the members."""

    def __init__(
        self, layout: Layout, linear_from: int, width: int, coverage: float, quantiles: Sequence[float] = ()
    ) -> None:
        self.members = NumberMembers(layout, linear_from, width, coverage, quantiles)
        self._layout = layout
        self._linear_from = linear_from
        self._coverage = coverage
        self._banks = Banks(layout, linear_from, width)
        self._recent_decay = float(layout.decays[0])
        self._squares = 0.0
        self._spread_weight = 0.0

    @property
    def width(self) -> int:
        """Features."""
        return int(self.members.weights.shape[0])

    @property
    def started(self) -> bool:
        """Whether there was an outcome: before, the label's unit means nothing."""
        return self.members.outcomes > 0

    def grow(self, width: int) -> None:
        """Take in new features, with weight zero."""
        self._banks.grow(width, self.members.weights)
        weights = np.zeros((width, 1, self._layout.heads))
        weights[: self.width] = self.members.weights
        self.members.weights = weights
        self.members.local.grow(width - self._linear_from)

    def absorb(self, labels: Array) -> None:
        """Take outcomes into the label's unit; weights are rewritten so that every prediction stays what it was."""
        members = self.members
        labels = np.minimum(np.maximum(labels, -HUGE), HUGE)
        if members.outcomes >= WARM_UP and self._squares > 0:
            reach = OUTLIER * members.unit
            labels = np.minimum(np.maximum(labels, members.centre - reach), members.centre + reach)
        count, n = members.outcomes, len(labels)
        mean = float(labels.mean())
        delta = mean - members.centre
        members.outcomes = count + n
        self._squares += float(((labels - mean) ** 2).sum()) + delta * delta * count * n / members.outcomes
        centre = members.centre + delta * n / members.outcomes if count else mean
        deviation = float(np.sqrt(self._squares / members.outcomes))
        unit = deviation if deviation > 1e-12 * abs(centre) + 1e-150 else members.unit
        rescale, shift = members.unit / unit, (members.centre - centre) / unit
        if not count:
            rescale, shift = 1.0, 0.0
        members.weights *= rescale
        members.weights[self._linear_from] += shift
        members.variances *= rescale * rescale
        members.recent = members.recent * rescale + shift
        members.centre, members.unit = centre, unit

    def learn(self, features: Array, answer: Answer, targets: Array) -> None:
        """From (n, width) features and (n,) outcomes in standard units; the answer is to these features as things
        are."""
        members, n = self.members, len(features)
        deviations = np.sqrt(members.variances[BASES : BASES + self._layout.heads])
        self._banks.learn(features, targets[:, None], members.weights, deviations=deviations)
        fade = self._recent_decay ** np.arange(n - 1, -1, -1.0)
        kept = self._recent_decay**n
        members.recent = members.recent * kept + (1.0 - self._recent_decay) * float(fade @ targets)

    def mix(self, answer: Answer, targets: Array) -> None:
        """Move the mixture, the spreads, the interval and the quantiles by what the members had answered, (n,) targets
        in its units."""
        members, n = self.members, len(targets)
        errors = targets[:, None] - answer.means
        squares = errors * errors
        variances = np.maximum(members.variances, 1e-24)
        log_densities = -0.5 * np.log(variances) - 0.5 * (TAILS + 1.0) * np.log1p(squares / (TAILS * variances))
        members.mixture = fixed_share(members.mixture, log_densities)
        decay = 2.0 ** (-1.0 / SPREAD_HALF_LIFE)
        fade = decay ** np.arange(n - 1, -1, -1.0)
        kept = self._spread_weight * decay**n
        self._spread_weight = kept + float(fade.sum())
        # An error beyond six spreads counts as six, once there are spreads to speak of.
        if kept > 8.0:
            np.minimum(squares, 36.0 * variances, out=squares)
        members.variances = (kept * variances + fade @ squares) / self._spread_weight
        outside = float((np.abs(targets - answer.mean) > members.reach * answer.spread).mean())
        moved = members.reach * np.exp(INTERVAL_RATE * min(n, 16) * (outside - (1.0 - self._coverage)))
        members.reach = float(min(max(moved, 0.05), 50.0))
        errors_in_spreads = (targets - answer.mean) / answer.spread
        members.quantiles.track(errors_in_spreads)
        members.local.learn(answer.inputs, answer.local, errors_in_spreads * answer.local)

    def save(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Plain values, and copies of arrays."""
        arrays = self.members.frozen() | self._banks.save()
        values = {"squares": self._squares, "spread_weight": self._spread_weight}
        return values, arrays

    def load(self, values: Mapping[str, Any], arrays: Arrays) -> None:
        """Become what was saved."""
        self.members.thaw(arrays, copy=True)
        self._banks.load(arrays)
        self._squares = values["squares"]
        self._spread_weight = values["spread_weight"]
