"""What anchors are looked at by: their class, and the slices that a service names. Pure.

A slice is a value of a category or of a boolean (`gate.slices`). A class is a value of the feature without a name.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import cast

import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch, Schema, Strings
from penstock.spec import ClassName, Spec

SLICES_MAX = 64
"""Values of a feature that are slices, the first that come; others are in none."""

Numbers = NDArray[np.int64]
Key = tuple[str, str]
"""The feature, empty for a class, and its value."""


class Groups:
    """The groups of one service's labelled events, numbered in the order in which they came."""

    def __init__(self, spec: Spec) -> None:
        self._schema = Schema.of(spec)
        self._features = spec.gate.slices
        self._numbers: dict[Key, int] = {}

    @property
    def keys(self) -> list[Key]:
        """Of all groups that came, in their order."""
        return list(self._numbers)

    def load(self, keys: Iterable[Key]) -> None:
        """Become what knows these groups."""
        self._numbers = {key: number for number, key in enumerate(keys)}

    def of(self, batch: Batch, *, fresh: bool = False) -> Numbers:
        """(n, 1 + features) the group of each event by its class and by each feature with slices; -1 for none, as of
        those that never came, unless they may be ``fresh``."""
        classes: Strings = [None] * len(batch)
        if has_classes(batch):
            classes = list(cast("list[ClassName]", batch.labels))
        columns = [("", classes), *((feature, self._values(batch, feature)) for feature in self._features)]
        if fresh:
            for feature, values in columns:
                self._meet(feature, values)
        numbers = self._numbers
        found = [[-1 if v is None else numbers.get((name, v), -1) for v in values] for name, values in columns]
        return np.array(found, np.int64).T.reshape(len(batch), len(columns))

    def _meet(self, feature: str, values: Strings) -> None:
        known = sum(name == feature for name, _ in self._numbers)
        for value in dict.fromkeys(values):
            key = feature, value
            if value is not None and key not in self._numbers and (not feature or known < SLICES_MAX):
                self._numbers[feature, value] = len(self._numbers)
                known += 1

    def _values(self, batch: Batch, feature: str) -> Strings:
        if feature in self._schema.strings:
            return batch.strings[self._schema.strings.index(feature)]
        column = batch.numbers[:, self._schema.numbers.index(feature)]
        return [None if v != v else "true" if v else "false" for v in column.tolist()]


def named(key: Key) -> str:
    """A group in words; empty for all events together."""
    feature, value = key
    return f"slice {feature}={value!r}" if feature else f"class {value!r}" if value else ""


def has_classes(batch: Batch) -> bool:
    """Whether each event has one class."""
    return isinstance(batch.labels, list) and bool(batch.labels) and isinstance(batch.labels[0], str)
