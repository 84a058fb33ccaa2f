"""How good answers were that were given before the labels came: accuracy, log loss, calibration, Kappa-temporal.

Every model is scored by the same code from its probabilities, whatever library they come from.
"""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Hits = NDArray[np.bool_]

BINS = 15
"""Of equal width, over the probability of the answer: Guo, Pleiss, Sun and Weinberger (2017)."""
LEAST_PROBABILITY = 1e-6
"""What the probability of what came is raised to, so that one certain error costs 13.8 nats and not infinity. A smaller
number would punish models that are often certain and wrong still harder."""


class Scores(msgspec.Struct, frozen=True, kw_only=True):
    """Of one model on some events."""

    accuracy: float
    log_loss: float
    """Nats an event."""
    ece: float
    kappa_temporal: float | None
    """None where repeating the last label is always right."""


def proper(answers: Floats) -> Floats:
    """(n, classes) rows that sum to 1. A model that says nothing of an event, or no number, gives every class the same.

    Without this, votes that do not sum to 1 and the first answers of models that know no class yet could not be scored.
    """
    cleaned = np.where(np.isfinite(answers) & (answers > 0.0), answers, 0.0)
    sums = cleaned.sum(axis=1, keepdims=True)
    shares: Floats = np.full_like(cleaned, 1.0 / cleaned.shape[1])
    np.divide(cleaned, sums, out=shares, where=sums > 0.0)
    return shares


def log_loss(of_what_came: Floats) -> float:
    """The mean of -ln p, from the (n,) probabilities of the labels that came."""
    return float(-np.log(np.maximum(of_what_came, LEAST_PROBABILITY)).mean())


def calibration_error(of_the_answer: Floats, hits: Hits) -> float:
    """The expected calibration error: how far confidence and the share of right answers are apart, weighted by bin.

    ``of_the_answer`` are the (n,) probabilities of the most probable class.
    """
    bins = np.minimum((of_the_answer * BINS).astype(np.intp), BINS - 1)
    confidence = np.bincount(bins, weights=of_the_answer, minlength=BINS)
    right = np.bincount(bins, weights=hits.astype(np.float64), minlength=BINS)
    return float(np.abs(confidence - right).sum() / len(hits))


def repeats(codes: NDArray[np.intp], step: int) -> NDArray[np.intp]:
    """(n,) what no-change answers: the last label of the step before, and the first class before there is one."""
    places = np.arange(len(codes)) // step * step - 1
    return np.where(places >= 0, codes[places], 0)


def kappa_temporal(accuracy: float, of_no_change: float) -> float | None:
    """(p - p') / (1 - p') with p' of no-change: Zliobaite, Bifet, Read, Pfahringer and Holmes (2015)."""
    return None if of_no_change >= 1.0 else (accuracy - of_no_change) / (1.0 - of_no_change)


class Scorer:
    """Collects what a model answered, step by step."""

    def __init__(self, codes: NDArray[np.intp], step: int) -> None:
        self._codes, self._step = codes, step
        self._of_the_answer = np.ones(len(codes))
        self._of_what_came = np.ones(len(codes))
        self._hits = np.ones(len(codes), dtype=np.bool_)
        self._count = 0

    def add(self, answers: Floats) -> None:
        """The next (m, classes) answers, as the model gave them."""
        rows = slice(self._count, self._count + len(answers))
        chances = proper(answers)
        came = self._codes[rows]
        self._of_the_answer[rows] = chances.max(axis=1)
        self._of_what_came[rows] = chances[np.arange(len(came)), came]
        self._hits[rows] = chances.argmax(axis=1) == came
        self._count += len(answers)

    @property
    def hits(self) -> Hits:
        """(n,) which answers were right, so far."""
        return self._hits[: self._count]

    def scores(self) -> Scores:
        """Of everything so far."""
        codes = self._codes[: self._count]
        accuracy = float(self.hits.mean())
        no_change = float((repeats(codes, self._step) == codes).mean())
        return Scores(
            accuracy=accuracy,
            log_loss=log_loss(self._of_what_came[: self._count]),
            ece=calibration_error(self._of_the_answer[: self._count], self.hits),
            kappa_temporal=kappa_temporal(accuracy, no_change),
        )
