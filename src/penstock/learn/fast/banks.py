"""Both banks of a model: heads on the inputs alone, and heads on all features, over one weight array."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.learn.fast.heads import Bank
from penstock.learn.fast.layout import Layout

Array = NDArray[np.float64]

PRIOR = 0.3
"""Precision of every head's prior: how many events' worth of evidence says that a weight is zero."""

ONE_BY_ONE = 8
"""Events in a step up to which they are learned one after the other, each from where the one before left the
weights."""


class Banks:
    """Teaches the columns of weights (D, outputs, heads) that learn by second order, all but the first-order head."""

    def __init__(self, layout: Layout, linear_from: int, width: int) -> None:
        self._split = len(layout.linear)
        self._end = self._split + len(layout.rich)
        self._from = linear_from
        self._linear = Bank(width - linear_from, layout.linear, PRIOR) if layout.linear else None
        self._rich = Bank(width, layout.rich, PRIOR)

    def _views(self, weights: Array) -> tuple[Array, Array]:
        return weights[self._from :, :, : self._split], weights[:, :, self._split : self._end]

    def grow(self, width: int, weights: Array) -> None:
        """Take further features at the end; the weights are those of the present width."""
        of_linear, of_rich = self._views(weights)
        if self._linear is not None:
            self._linear.grow(width - self._from, of_linear)
        self._rich.grow(width, of_rich)

    def learn_one(self, row: Array, residual: Array, curvature: Array, weights: Array) -> None:
        """One event: features (D,), residual (outputs, heads), curvature (heads,)."""
        of_linear, of_rich = self._views(weights)
        split = self._split
        if self._linear is not None:
            self._linear.learn_one(row[self._from :], residual[:, :split], curvature[:split], of_linear)
        self._rich.learn_one(row, residual[:, split:], curvature[split:], of_rich)

    def learn_many(self, rows: Array, residuals: Array, curvatures: Array, weights: Array, *, share: bool) -> None:
        """n events at once: (n, D), (n, outputs, heads), (n, heads)."""
        of_linear, of_rich = self._views(weights)
        split = self._split
        if self._linear is not None:
            self._linear.learn_many(
                rows[:, self._from :], residuals[:, :, :split], curvatures[:, :split], of_linear, share=share
            )
        self._rich.learn_many(rows, residuals[:, :, split:], curvatures[:, split:], of_rich, share=share)

    def save(self) -> dict[str, NDArray[Any]]:
        """Copies of everything but the weights."""
        saved = self._rich.save("rich")
        return saved if self._linear is None else saved | self._linear.save("linear")

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Become what was saved."""
        self._rich.load("rich", arrays)
        if self._linear is not None:
            self._linear.load("linear", arrays)
