"""A number among the inputs that is nearly the answer already, such as the last value of a series."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch, Schema
from penstock.spec import Spec

Array = NDArray[np.float64]

LOOKS = tuple(1 << k for k in range(4, 12))
"""Numbers of outcomes (16 to 2,048) at which an anchor is looked for until one is found. The first one found stays:
heads learn the difference to it, and learning another difference would begin anew."""
NEARER = 0.7
"""An anchor's mean absolute error is below this share of that of the running mean: chance does not do that in 16
events."""
HUGE = 1e100


class Anchor:
    """What a regression's outcomes are measured from: one of the number features in the label's own unit, or nothing.

    Standardising hides that an input has the label's unit, and a prior towards zero then pulls away from it; next to
    outliers a hundred deviations out, heads need thousands of events to come back to "the same as last time".
    """

    def __init__(self, spec: Spec) -> None:
        schema = Schema.of(spec)
        eligible = [spec.features[name].type == "number" for name in schema.numbers]
        self._eligible = np.flatnonzero(np.array(eligible, dtype=bool))
        self._column = -1
        self._count = 0
        self._mean = 0.0
        self._errors = np.zeros(len(self._eligible))
        self._present = np.zeros(len(self._eligible))
        self._of_mean = 0.0

    @property
    def mark(self) -> int:
        """Which feature it is, counted from 1; 0 for none."""
        return self._column + 1

    def values(self, batch: Batch) -> Array:
        """(n,) what is added to the heads' answers; where the anchor's feature is missing, the mean of the outcomes."""
        if self._column < 0:
            return np.zeros(len(batch))
        values = batch.numbers[:, self._column]
        values = np.where(np.isnan(values), self._mean, values)
        return np.minimum(np.maximum(values, -HUGE), HUGE)

    def absorb(self, batch: Batch, labels: Array) -> bool:
        """Take outcomes in; whether an anchor was found just now, so that everything about outcomes begins anew."""
        before, n = self._count, len(labels)
        labels = np.minimum(np.maximum(labels, -HUGE), HUGE)
        looking = self._column < 0 and before < LOOKS[-1]
        if looking:
            errors = np.abs(labels[:, None] - np.minimum(np.maximum(batch.numbers[:, self._eligible], -HUGE), HUGE))
            self._present += (~np.isnan(errors)).sum(axis=0)
            self._errors += np.nansum(errors, axis=0)
            means = (self._mean * before + np.cumsum(labels) - labels) / np.maximum(before + np.arange(n), 1)
            first = 1 if before == 0 else 0
            self._of_mean += float(np.abs(labels - means)[first:].sum())
        self._count = before + n
        self._mean += float(labels.mean() - self._mean) * n / self._count
        if not looking or not len(self._eligible) or not any(before < look <= self._count for look in LOOKS):
            return False
        usual = self._of_mean / max(self._count - 1, 1)
        mostly = self._present >= 0.5 * self._count
        errors = np.where(mostly, self._errors / np.maximum(self._present, 1.0), np.inf)
        best = int(errors.argmin())
        if errors[best] < NEARER * usual:
            self._column = int(self._eligible[best])
        return self._column >= 0

    def frozen(self) -> dict[str, NDArray[Any]]:
        """What predicting needs."""
        return {"anchor": np.array([float(self._column), self._mean])}

    def thaw(self, array: NDArray[Any]) -> None:
        """Become what was frozen."""
        self._column, self._mean = int(array[0]), float(array[1])

    def save(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "column": self._column,
            "count": self._count,
            "mean": self._mean,
            "errors": self._errors.tolist(),
            "present": self._present.tolist(),
            "of_mean": self._of_mean,
        }

    def load(self, values: dict[str, Any]) -> None:
        """Become what was saved."""
        self._column, self._count, self._mean = values["column"], values["count"], values["mean"]
        self._errors, self._present = np.array(values["errors"], float), np.array(values["present"], float)
        self._of_mean = values["of_mean"]
