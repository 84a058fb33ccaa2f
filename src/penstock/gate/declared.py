"""What a service file says that cannot be: values outside of a feature's or the label's range.

Pure, and a function of the event alone, so that whoever takes it in can tell it before anybody learns."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch, Schema
from penstock.spec import Feature, Spec


class Declared:
    """The ranges and values of one service file."""

    def __init__(self, spec: Spec) -> None:
        schema = Schema.of(spec)
        self._label = spec.label
        self._numbers = [(i, n, f) for i, n, f in _features(spec, schema.numbers) if _is_bounded(f)]
        self._vectors = [(i, n, f) for i, n, f in _features(spec, [n for n, _ in schema.vectors]) if _is_bounded(f)]
        self._closed = [(i, n, set(f.values)) for i, n, f in _features(spec, schema.strings) if f.values]

    @property
    def is_anything(self) -> bool:
        """Whether any value is impossible at all."""
        return bool(self._numbers or self._vectors or self._closed or self._label_is_bounded)

    def impossible(self, batch: Batch) -> dict[int, str]:
        """Rows with a value that cannot be, and which it is; missing values can."""
        found: dict[int, str] = {}
        for column, name, feature in self._numbers:
            _outside(batch.numbers[:, column], name, feature.min, feature.max, found)
        for column, name, feature in self._vectors:
            values = np.asarray(batch.vectors[column], np.float64)
            for worst in (values.min(axis=1), values.max(axis=1)):
                _outside(worst, name, feature.min, feature.max, found)
        for column, name, known in self._closed:
            for row, value in enumerate(batch.strings[column]):
                if value is not None and value not in known:
                    found.setdefault(row, f"{name} is {value!r}, which is none of its values")
        self._impossible_label(batch, found)
        return found

    def impossible_labels(self, batch: Batch) -> dict[int, str]:
        """The same for feedback, which has no features."""
        found: dict[int, str] = {}
        self._impossible_label(batch, found)
        return found

    def _impossible_label(self, batch: Batch, found: dict[int, str]) -> None:
        if isinstance(batch.labels, np.ndarray) and self._label_is_bounded:
            _outside(batch.labels, self._label.name, self._label.min, self._label.max, found)

    @property
    def _label_is_bounded(self) -> bool:
        return self._label.min is not None or self._label.max is not None


def _features(spec: Spec, names: Collection[str]) -> list[tuple[int, str, Feature]]:
    return [(place, name, spec.features[name]) for place, name in enumerate(names)]


def _is_bounded(feature: Feature) -> bool:
    return feature.min is not None or feature.max is not None


def _outside(values: NDArray[Any], name: str, low: float | None, high: float | None, found: dict[int, str]) -> None:
    """Note each row whose value is outside; NaN is none."""
    if low is not None:
        for row in np.flatnonzero(values < low).tolist():
            found.setdefault(row, f"{name} is {values[row]:.6g}, below its min of {low:g}")
    if high is not None:
        for row in np.flatnonzero(values > high).tolist():
            found.setdefault(row, f"{name} is {values[row]:.6g}, above its max of {high:g}")
