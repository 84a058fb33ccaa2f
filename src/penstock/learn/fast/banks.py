"""The banks of a model, over one weight array: heads on all features, and heads on the inputs alone or on all else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.learn.fast.heads import Bank
from penstock.learn.fast.layout import Layout
from penstock.learn.fast.links import LEAST_SQUARES, RATE, ROBUST, SIGMOID, SOFTMAX

Array = NDArray[np.float64]

PRIOR = 0.3
"""Precision of every head's prior: how many events' worth of evidence says that a weight is zero."""
IN_TURN_MAX = 32
"""Events in a step up to which they are learned one after the other, each from where the one before left the weights:
beyond, to do so costs more than to solve once."""
FEW = 3
"""Events from which it pays to take them through the inverse together."""


class Banks:
    """Teaches the columns of weights (D, outputs, heads) that learn by second order, all but the first-order head."""

    def __init__(self, layout: Layout, linear_from: int, width: int) -> None:
        end = layout.columns
        self._ones = np.ones(layout.heads)
        of_numbers = RATE if layout.counts else ROBUST
        kinds = [of_numbers if layout.exact is None else SIGMOID if layout.sets else SOFTMAX] * end
        if layout.exact is not None:
            kinds[layout.exact] = LEAST_SQUARES
        self._parts: list[tuple[str, Bank, slice, slice]] = []
        """Each bank with its name, its features and its columns."""
        at = 0
        for name, half_lives, inputs in (
            ("linear", layout.linear, slice(linear_from, None)),
            ("brief", layout.brief, slice(0, linear_from + 1)),
            ("rich", layout.rich, slice(0, None)),
        ):
            columns = slice(at, at + len(half_lives))
            if half_lives:
                bank = Bank(_features(inputs, width), half_lives, PRIOR, kinds[columns], blocks=bool(layout.brief))
                self._parts.append((name, bank, inputs, columns))
            at = columns.stop

    def grow(self, width: int, weights: Array) -> None:
        """Take further features at the end; the weights are those of the present width."""
        for _, bank, inputs, columns in self._parts:
            bank.grow(_features(inputs, width), weights[inputs, :, columns])

    def learn(
        self,
        rows: Array,
        targets: Array,
        weights: Array,
        *,
        scores: Array | None = None,
        deviations: Array | None = None,
    ) -> None:
        """n events: (n, D) features, (n, outputs) targets; (n, outputs, heads) scores by the weights as they are, where
        they are known, and (heads,) standard deviations for Huber's loss. Up to IN_TURN_MAX of them are learned in
        turn, more at once."""
        n = len(rows)
        deviations = self._ones if deviations is None else deviations
        if n == 1 and scores is not None:
            self._learn_one(rows[0], scores[0], targets[0], deviations, weights)
            return
        start = 0
        while start < n:
            stop = min(n, start + self._room) if n <= IN_TURN_MAX else n
            if stop - start < FEW:
                stop = start + 1
            part = slice(start, stop)
            now = _scores(rows[part], weights) if scores is None or start else scores[part]
            if stop == start + 1:
                self._learn_one(rows[start], now[0], targets[start], deviations, weights)
                start = stop
                continue
            for _, bank, inputs, columns in self._parts:
                learn = bank.learn_few if n <= IN_TURN_MAX else bank.learn_many
                learn(
                    rows[part, inputs],
                    now[..., columns],
                    targets[part],
                    deviations[columns],
                    weights[inputs, :, columns],
                )
            start = stop

    @property
    def _room(self) -> int:
        """Events that all banks may learn in turn with one call."""
        return min(bank.room for _, bank, _, _ in self._parts)

    def _learn_one(self, row: Array, scores: Array, target: Array, deviations: Array, weights: Array) -> None:
        for _, bank, inputs, columns in self._parts:
            bank.learn_one(row[inputs], scores[:, columns], target, deviations[columns], weights[inputs, :, columns])

    def save(self) -> dict[str, NDArray[Any]]:
        """Copies of everything but the weights."""
        saved: dict[str, NDArray[Any]] = {}
        for name, bank, _, _ in self._parts:
            saved |= bank.save(name)
        return saved

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Become what was saved."""
        for name, bank, _, _ in self._parts:
            bank.load(name, arrays)


def _features(inputs: slice, width: int) -> int:
    """How many of so many features a bank reads."""
    return len(range(*inputs.indices(width)))


def _scores(rows: Array, weights: Array) -> Array:
    width, outputs, heads = weights.shape
    scores: Array = (rows @ weights.reshape(width, -1)).reshape(len(rows), outputs, heads)
    return scores
