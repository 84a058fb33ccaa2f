"""Prequential measures with a fading factor: how good the answers were that were given before learning from each event.

Gama, Sebastiao and Rodrigues (2013), "On evaluating stream learning algorithms": sum and count fade alike, so that the
quotient follows the stream and forgets with a half-life of ln 2 / (1 - factor) = 693 events.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from operator import eq
from typing import cast

import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch
from penstock.learn.interface import Learned, Predictions
from penstock.spec import ClassName, ClassSet

FACTOR = 0.999
ERROR_MAX = 1e300
"""Beyond it a sum of errors would no longer be a number."""


@lru_cache(maxsize=64)
def _weights(n: int) -> tuple[NDArray[np.float64], float]:
    """(n,) weights of values in order, and their sum."""
    weights = FACTOR ** np.arange(n - 1, -1, -1, dtype=np.float64)
    weights.flags.writeable = False
    return weights, float(weights.sum())


class Fading:
    """The mean of a series in which each value counts a thousandth less than the one after it."""

    def __init__(self) -> None:
        self.total = 0.0
        self.weight = 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        """Take (n,) values in order."""
        n = len(values)
        if n == 1:
            # The usual step of an idle stream, for which arrays are slow.
            self.total = self.total * FACTOR + float(values[0])
            self.weight = self.weight * FACTOR + 1.0
            return
        weights, together = _weights(n)
        faded = FACTOR**n
        self.total = self.total * faded + float((weights * values).sum())
        self.weight = self.weight * faded + together

    @property
    def mean(self) -> float:
        """NaN before the first value."""
        return self.total / self.weight if self.weight else float("nan")


class Prequential:
    """Loss, and accuracy or absolute error, of a learner's own predictions."""

    def __init__(self, threshold: float = 0.5) -> None:
        """Classes of a set are answered when their probability is above the threshold."""
        self._threshold = threshold
        self.loss = Fading()
        self.accuracy = Fading()
        self.error = Fading()
        self.hamming_loss = Fading()
        self._found = Fading()
        """Twice the classes that were answered and came, an event."""
        self._named = Fading()
        """Classes that were answered, and those that came, an event."""

    @property
    def micro_f1(self) -> float:
        """NaN before the first class of a set."""
        return self._found.total / self._named.total if self._named.total else float("nan")

    def add(self, learned: Learned, batch: Batch, classes: tuple[ClassName, ...]) -> None:
        """Take one step's predictions; ``classes`` names the columns of its probabilities."""
        self.loss.add(learned.losses)
        if isinstance(batch.labels, list) and not isinstance(batch.labels[0], str):
            self._add_sets(learned.predictions, batch.labels, classes)
        elif isinstance(batch.labels, list):
            self.accuracy.add(right(learned.predictions, cast("list[ClassName]", batch.labels), classes))
        elif batch.labels is not None and learned.predictions.mean is not None:
            with np.errstate(over="ignore"):
                errors = np.abs(learned.predictions.mean - batch.labels)
            # One event beyond all measure must not leave the mean without a value for ever.
            self.error.add(np.minimum(errors, ERROR_MAX))

    def _add_sets(self, predictions: Predictions, sets: list[ClassSet], classes: tuple[ClassName, ...]) -> None:
        counts = agreement(predictions, sets, classes, self._threshold)
        self.accuracy.add((counts.wrong == 0).astype(np.float64))
        self.hamming_loss.add(counts.wrong / np.maximum(counts.classes, 1.0))
        self._found.add(2.0 * counts.found)
        self._named.add(counts.named)

    def save(self) -> list[float]:
        """Six numbers, and as many for sets of classes."""
        return [number for fading in self._all() for number in (fading.total, fading.weight)]

    def load(self, state: list[float]) -> None:
        """Become what was saved, by a version also that knew of no sets."""
        for index, fading in enumerate(self._all()[: len(state) // 2]):
            fading.total, fading.weight = state[2 * index], state[2 * index + 1]

    def _all(self) -> tuple[Fading, ...]:
        return self.loss, self.accuracy, self.error, self.hamming_loss, self._found, self._named


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of n events, how far the sets that were answered are those that came."""

    found: NDArray[np.float64]
    """(n,) classes answered that came."""
    named: NDArray[np.float64]
    """(n,) classes that were answered, and those that came; twice ``found`` where the sets are equal."""
    classes: NDArray[np.float64]
    """(n,) classes that could be answered or came."""

    @property
    def wrong(self) -> NDArray[np.float64]:
        """(n,) classes that were answered and did not come, or came and were not answered."""
        return self.named - 2.0 * self.found


def agreement(
    predictions: Predictions, sets: list[ClassSet], classes: tuple[ClassName, ...], threshold: float
) -> Agreement:
    """Compare what is above the threshold with what came; ``classes`` names the columns, and may name later ones."""
    assert predictions.probabilities is not None
    chosen = predictions.probabilities > threshold
    index = {name: place for place, name in enumerate(classes[: chosen.shape[1]])}
    places = [[index[name] for name in names if name in index] for names in sets]
    found = np.array([row[inside].sum() for row, inside in zip(chosen, places, strict=True)], np.float64)
    sizes = np.array(list(map(len, sets)), np.float64)
    unknown = sizes - np.array(list(map(len, places)), np.float64)
    return Agreement(found=found, named=chosen.sum(axis=1) + sizes, classes=unknown + chosen.shape[1])


def right(predictions: Predictions, labels: list[ClassName], classes: tuple[ClassName, ...]) -> NDArray[np.float64]:
    """(n,) 1 where the most probable class is the label, else 0; a label that had no column yet was not predicted."""
    if predictions.probabilities is None or not predictions.probabilities.shape[1]:
        return np.zeros(len(labels))
    best = map(classes.__getitem__, predictions.probabilities.argmax(axis=1).tolist())
    return np.fromiter(map(eq, best, labels), np.float64, len(labels))
