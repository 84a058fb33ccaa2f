"""Boosted trees, grown: what predicting with them needs. NumPy alone, since servers predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch, Schema
from penstock.learn.fast.encode import Encoder
from penstock.learn.fast.links import STEEP, softmax
from penstock.spec import Spec

Array = NDArray[np.float64]

COLUMNS_MAX = 64
"""Columns that trees ask about at most: vectors (embeddings, pixels) stay out where they would make more."""
HUGE = 1e300
MANY = 32
"""Events from which bits are added up level by level: NumPy packs those of columns one by one."""
DAY_S = 86_400.0


class Columns:
    """What trees ask about: values as they come, neither standardised nor mixed, since only their order counts."""

    def __init__(self, spec: Spec, encoder: Encoder, most: int = COLUMNS_MAX) -> None:
        schema = Schema.of(spec)
        self._encoder = encoder
        self._times = [i for i, name in enumerate(schema.numbers) if spec.features[name].type == "timestamp"]
        plain = len(schema.numbers) + 2 * len(self._times)
        widths = sum(width for _, width in schema.vectors)
        self._takes_vectors = plain + widths + encoder.categories <= most
        ordered = min(plain + (widths if self._takes_vectors else 0), most)
        self._ordered = ordered
        categories = min(encoder.categories, most - ordered)
        self._is_mixed = bool(self._times) or (self._takes_vectors and widths > 0) or categories > 0
        self.category = np.zeros(ordered + categories, dtype=np.bool_)
        """(columns,) whether a value is the code of a category, which has no order."""
        self.category[ordered:] = True

    @property
    def count(self) -> int:
        """Columns."""
        return len(self.category)

    def of(self, batch: Batch) -> Array:
        """(columns, n) values; NaN is missing, or a category's value that has no code."""
        if not self._is_mixed:
            return np.minimum(np.maximum(batch.numbers.T[: self._ordered], -HUGE), HUGE, order="C")
        parts = [batch.numbers]
        if self._times:
            seconds = batch.numbers[:, self._times]
            # The epoch began on a Thursday.
            parts += [seconds % DAY_S, (seconds // DAY_S + 3.0) % 7.0]
        if self._takes_vectors:
            parts += [entries.astype(np.float64) for entries in batch.vectors]
        ordered = (parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1))[:, : self._ordered]
        columns = np.empty((self.count, len(batch)))
        # Within what can be told from no bound at all; NaN stays.
        first = columns[: self._ordered]
        np.maximum(ordered.T, -HUGE, out=first)
        np.minimum(first, HUGE, out=first)
        if self.count > self._ordered:
            columns[self._ordered :] = self._encoder.codes(batch)[: self.count - self._ordered]
        return columns


@dataclass(frozen=True, slots=True)
class Trees:
    """Symmetric trees (Prokhorenkova et al. 2018): ``depth`` questions each, and a table of what their answers say."""

    columns: NDArray[np.int64]
    """(trees, depth) which column is asked about."""
    bounds: Array
    """(1 or 2, trees, depth): the answer is yes for values above the first, and up to the second where any is a
    category's."""
    leaves: Array
    """(trees, 2^depth, outputs) added up over trees; the first question is the lowest bit of a leaf's place."""
    groups: NDArray[np.int64]
    """(groups,) the classes that are told apart, -1 for all others together; empty for numbers. Of two groups the one
    output is the second one's log odds."""
    spare: float
    """Probability that is left for classes in none of the groups."""

    def scores(self, columns: Array) -> Array:
        """(n, outputs) sums of leaves for (columns, n) values."""
        return self._leaves(columns).sum(axis=0)  # type: ignore[no-any-return]

    def _leaves(self, columns: Array) -> Array:
        """(trees, n, outputs) what every tree says."""
        trees, depth, outputs = *self.columns.shape, self.leaves.shape[2]
        # The answers are the bits of a leaf's place, the first question's the lowest.
        if columns.shape[1] < MANY:
            asked = columns.take(self.columns.reshape(-1), axis=0)
            bounds = self.bounds.reshape(len(self.bounds), -1, 1)
            # NaN is never beyond anything.
            far = asked > bounds[0]
            if len(bounds) > 1:
                far &= asked <= bounds[1]
            places = np.packbits(far.reshape(trees, depth, -1), axis=1, bitorder="little")[:, 0]
        else:
            places = self._places(columns)
        at = places + _starts(trees, depth)
        if outputs == 1:
            return self.leaves.reshape(-1).take(at)[:, :, None]
        return self.leaves.reshape(-1, outputs).take(at, axis=0)

    def _places(self, columns: Array) -> NDArray[np.uint8]:
        """(trees, n) places of leaves. Questions are asked column by column, so that values are not copied for each."""
        trees, depth = self.columns.shape
        asked = self.columns.T.reshape(-1)
        by_column = asked.argsort(kind="stable")
        bounds = self.bounds.transpose(0, 2, 1).reshape(len(self.bounds), -1, 1)[:, by_column]
        ends = np.searchsorted(asked[by_column], np.arange(len(columns) + 1)).tolist()
        far = np.empty((trees * depth, columns.shape[1]), np.bool_)
        for column, (start, end) in enumerate(pairwise(ends)):
            if start < end:
                np.greater(columns[column], bounds[0, start:end], out=far[start:end])
                if len(bounds) > 1:
                    far[start:end] &= columns[column] <= bounds[1, start:end]
        level_of = np.empty_like(by_column)
        level_of[by_column] = np.arange(len(by_column))
        bits = far.view(np.uint8)
        places = bits.take(level_of[(depth - 1) * trees :], axis=0)
        for level in range(depth - 2, -1, -1):
            places += places
            places += bits.take(level_of[level * trees : (level + 1) * trees], axis=0)
        return places

    def each(self, columns: Array, members: int) -> Array:
        """(n, members) scores of one output, where several members' trees are put together, as many of each."""
        leaves = self._leaves(columns)[:, :, 0]
        sums: Array = np.add.reduce(leaves.reshape(members, -1, leaves.shape[1]), axis=1)
        return sums.T

    def probabilities(self, columns: Array, classes: int) -> Array:
        """(n, classes) probabilities for (columns, n) values."""
        n, groups = columns.shape[1], self.groups
        if len(groups) <= 1:
            found = np.ones((n, 1))
        else:
            scores = self.scores(columns)
            found = (two(scores) if len(groups) == 2 else softmax(scores[:, :, None]))[:, :, 0]
        answers = np.zeros((n, classes))
        modelled = groups[groups >= 0]
        others = classes - len(modelled)
        if not others:
            answers[:, modelled] = found
            return answers
        rest = np.zeros((n, 1))
        if groups[-1] < 0:
            rest, found = found[:, -1:], found[:, :-1]
        answers += (self.spare + (1.0 - self.spare) * rest) / others
        answers[:, modelled] = (1.0 - self.spare) * found
        return answers

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """Under names that start with this one; they are never changed, so they need no copies."""
        return {
            f"{name}.columns": self.columns,
            f"{name}.bounds": self.bounds,
            f"{name}.leaves": self.leaves,
            f"{name}.groups": self.groups,
            f"{name}.spare": np.array([self.spare]),
        }

    @classmethod
    def of(cls, name: str, arrays: Mapping[str, NDArray[Any]]) -> Trees | None:
        """What stands under these names; None where nothing has grown yet."""
        if f"{name}.columns" not in arrays:
            return None
        return cls(
            columns=arrays[f"{name}.columns"],
            bounds=arrays[f"{name}.bounds"],
            leaves=arrays[f"{name}.leaves"],
            groups=arrays[f"{name}.groups"],
            spare=float(arrays[f"{name}.spare"][0]),
        )


@lru_cache(maxsize=64)
def _starts(trees: int, depth: int) -> NDArray[np.intp]:
    """(trees, 1) where the leaves of each tree begin."""
    starts = np.arange(0, trees << depth, 1 << depth)[:, None]
    starts.flags.writeable = False
    return starts


def two(scores: Array) -> Array:
    """(n, 2, members) probabilities for (n, members) log odds of the second class."""
    n, members = scores.shape
    answers = np.empty((n, 2, members))
    second = answers[:, 1]
    np.minimum(np.maximum(np.negative(scores, out=second), -STEEP, out=second), STEEP, out=second)
    np.exp(second, out=second)
    second += 1.0
    np.divide(1.0, second, out=second)
    np.subtract(1.0, second, out=answers[:, 0])
    return answers


def same(one: Trees | None, other: Trees | None) -> bool:
    """Whether both answer alike, to the last bit."""
    if one is None or other is None:
        return one is other
    return one.spare == other.spare and all(
        a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
        for a, b in (
            (one.columns, other.columns),
            (one.bounds, other.bounds),
            (one.leaves, other.leaves),
            (one.groups, other.groups),
        )
    )


def together(members: Sequence[Trees | None]) -> Trees | None:
    """The trees of all members as one, so that all are asked at once; None where one of them has none, they do not tell
    the same two classes apart, or they have more outputs than one.

    Shorter trees get questions whose answer is always no, which leave the places of their leaves as they are.
    """
    first = members[0]
    if first is None or first.leaves.shape[2] > 1 or len(first.groups) == 1:
        return None
    depth = max(trees.columns.shape[1] for trees in members if trees is not None)
    columns, bounds, leaves = [], [], []
    for trees in members:
        if trees is None or not np.array_equal(trees.groups, first.groups) or len(trees.columns) != len(first.columns):
            return None
        count, its_depth = trees.columns.shape
        deeper = np.zeros((count, depth), dtype=trees.columns.dtype)
        deeper[:, :its_depth] = trees.columns
        columns.append(deeper)
        limits = np.full((2, count, depth), np.inf)
        limits[: len(trees.bounds), :, :its_depth] = trees.bounds
        bounds.append(limits)
        more = np.zeros((count, 1 << depth, 1))
        more[:, : 1 << its_depth] = trees.leaves
        leaves.append(more)
    limits = np.concatenate(bounds, axis=1)
    # A bound below which all values lie is none; where no question has another, none is looked at.
    limits = limits if np.isfinite(limits[1]).any() else limits[:1]
    return Trees(np.concatenate(columns), limits, np.concatenate(leaves), first.groups, first.spare)
