"""Boosted trees as members of the mixture: grown anew on windows of the latest events.

Trees that grow with the stream (Domingos and Hulten 2000) ask their first question after hundreds of events and cannot
take it back. A few thousand events fit in memory, and trees are grown on them in milliseconds: so these are forgotten
and grown anew, a short window often and a long one seldom. Which length suits the stream now, the mixture finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch
from penstock.learn.fast.encode import Encoder
from penstock.learn.fast.experts import Arrays
from penstock.learn.fast.trees import COLUMNS_MAX, Columns, Trees, same, together, two
from penstock.spec import Spec

Array = NDArray[np.float64]

SHORTER = (16, 4, 1)
"""Windows are the longest one divided by these."""
DEPTHS = (4, 4, 6)
TREES = 24
RATE = 0.3
"""Of a tree in the sum."""
RIDGE = 1.0
"""Curvature that says that a leaf is zero: four events of a binary class at even odds."""
BINS = (32, 62, 62)
"""Of a window at most. More than sixty years of age, or minutes of an hour, are then told apart, which 32 are not."""
EVENTS_A_BIN = 2
"""At least, so that few events are not cut up."""
ROWS = 1024
"""Rows that a tree sees on average; of a longer window, a sample of its own."""
COLUMNS = 16
"""Columns that a tree may ask about; of more, a choice of its own."""
GROUPS_MAX = 16
"""Classes told apart, the most frequent ones of the window; time grows with their number."""
FIRST = 8
"""Events before the first trees."""
CREDIT_FIRST_NS = 20e6
"""Lets trees grow as often as they like over the first thousand events or so, where it helps most."""
CREDIT_MAX_NS = 2e6
PRICE_MAX_NS = 40e6
"""Of one growing, which holds up the step that it happens in: with many classes there are fewer trees."""
HUGE = 1e100
"""Outcomes are cut here, so that their squares stay finite."""
FEW = 32
"""Events up to which trees that learn are asked by compiled loops."""
ASKED_MAX = 256
"""The same of those that are compared with them."""
HELD = 2
"""Windows that the buffer has room for: events are moved to its front once a window."""


def earned(n: int) -> float:
    """Nanoseconds of growing that a step of n events allows, about half of what the heads take for it. A count, not a
    clock: learning must not depend on how fast it is."""
    return 40e3 + 10e3 * min(n, 32) + 300.0 * max(n - 32, 0)


class Boosted:
    """Three members, a window each, as servers have them."""

    def __init__(self, columns: Columns, compiled_until: int = 0) -> None:
        """``compiled_until``: events up to which compiled loops answer; none where the compiler is not to be loaded."""
        self._answering: ModuleType | None = None
        self._compiled_until = compiled_until
        if compiled_until:
            from penstock.learn.fast import answering

            self._answering = answering
        self._columns = columns
        self._grown: list[Trees | None] = [None] * len(SHORTER)
        self._last = np.empty((columns.count, 0))
        """(columns, n) of what was answered last, which is what is learned from next."""
        self._together: Trees | None = None
        """All of them as one where that can be, which is asked in a third of the time."""

    @property
    def members(self) -> int:
        """One a window."""
        return len(SHORTER)

    def answer(self, batch: Batch, classes: int | None) -> Array:
        """(n, classes, members) probabilities, or (n, members) means; as good as none before anything has grown."""
        values = self._last = self._columns.of(batch)
        n = len(batch)
        if self._answering is not None and classes and n <= self._compiled_until:
            return self._answer_by(self._answering, values, classes)
        if self._together is not None:
            scores = self._together.each(values, self.members)
            if classes is None:
                return scores
            if classes == 2:
                return two(scores)
        if classes is None:
            means = np.zeros((n, self.members))
            for member, trees in enumerate(self._grown):
                if trees is not None:
                    means[:, member] = trees.scores(values)[:, 0]
            return means
        found = np.empty((n, classes, self.members))
        for member, trees in enumerate(self._grown):
            found[:, :, member] = 1.0 / max(classes, 1) if trees is None else trees.probabilities(values, classes)
        return found

    def _answer_by(self, answering: ModuleType, values: Array, classes: int) -> Array:
        """The same by compiled loops, in less time where there are few events."""
        n = values.shape[1]
        found = np.empty((n, classes, self.members))
        if self._together is not None and classes == 2:
            together = self._together
            answering.ask_two(values, together.columns, together.bounds, together.leaves, found)
            return found
        for member, trees in enumerate(self._grown):
            if trees is None:
                found[:, :, member] = 1.0 / classes
                continue
            scores = np.empty((n, trees.leaves.shape[2]))
            answering.ask(values, trees.columns, trees.bounds, trees.leaves, scores)
            answering.chances(scores, trees.groups, trees.spare, found[:, :, member])
        return found

    def frozen(self) -> dict[str, NDArray[Any]]:
        """Grown trees are never changed."""
        arrays: dict[str, NDArray[Any]] = {}
        for member, trees in enumerate(self._grown):
            if trees is not None:
                arrays |= trees.arrays(f"trees.{member}")
        return arrays

    def thaw(self, arrays: Arrays) -> None:
        """Answer as the trees among these arrays."""
        before = self._grown
        grown = [Trees.of(f"trees.{member}", arrays) for member in range(len(SHORTER))]
        # From one version to the next most trees stay, and those that do need not be put together again.
        self._grown = [old if same(old, new) else new for old, new in zip(before, grown, strict=True)]
        if any(new is not old for new, old in zip(self._grown, before, strict=True)):
            self._together = together(self._grown)


def _asked(spec: Spec, encoder: Encoder) -> Columns:
    has_trees = spec.learn.tree_window > 0 and spec.task in ("binary", "multiclass", "regression")
    return Columns(spec, encoder, COLUMNS_MAX if has_trees else 0)


def boosted(spec: Spec, encoder: Encoder, *, compiled: bool = False) -> list[Boosted]:
    """The trees that a service's settings describe, as servers have them; ``compiled`` where the compiler may be
    loaded."""
    columns = _asked(spec, encoder)
    return [Boosted(columns, ASKED_MAX if compiled else 0)] if columns.count else []


def boosting(spec: Spec, encoder: Encoder) -> list[Boosting]:
    """The same as the learner has them."""
    columns, window = _asked(spec, encoder), spec.learn.tree_window
    return [Boosting(columns, window, numeric=spec.task == "regression")] if columns.count else []


class Boosting(Boosted):
    """The same members as the learner has them: with the window that they grow from."""

    def __init__(self, columns: Columns, window: int, *, numeric: bool) -> None:
        super().__init__(columns, FEW)
        self._windows = [max(window // shorter, 1) for shorter in SHORTER]
        self._numeric = numeric
        self._values = np.empty((columns.count, HELD * window))
        self._targets = np.empty(HELD * window)
        self._end = 0
        self._seen = 0
        self._grown_times = 0
        self._since = [0] * len(SHORTER)
        self._credit = CREDIT_FIRST_NS

    def learn(self, batch: Batch, targets: NDArray[Any]) -> None:
        """Take a step's events into the window, and grow those trees that are due, as far as there is credit."""
        n = len(batch)
        self._append(self._last if self._last.shape[1] == n else self._columns.of(batch), targets)
        self._seen += n
        self._since = [since + n for since in self._since]
        self._credit = max(self._credit, min(self._credit + earned(n), CREDIT_MAX_NS))
        before = list(self._grown)
        while self._credit > 0:
            lateness = [since / self._every(member) for member, since in enumerate(self._since)]
            member = lateness.index(max(lateness))
            if lateness[member] < 1.0:
                break
            self._credit -= self._grow(member)
            self._since[member] = 0
            # As long as a longer window holds no more than a shorter one, its trees are the same.
            while member + 1 < len(self._windows) and self._seen <= self._windows[member]:
                self._grown[member + 1] = self._grown[member]
                member += 1
                self._since[member] = 0
        if any(new is not old for new, old in zip(self._grown, before, strict=True)):
            self._together = together(self._grown)

    def _every(self, member: int) -> int:
        """Events between two growings: an eighth of the window, or of what there was so far."""
        return max(FIRST, min(self._windows[member], self._seen) // 8)

    def _append(self, values: Array, targets: NDArray[Any]) -> None:
        room, longest = self._values.shape[1], self._windows[-1]
        n = min(len(targets), longest)
        if self._end + n > room:
            kept = min(self._end, longest)
            self._values[:, :kept] = self._values[:, self._end - kept : self._end].copy()
            self._targets[:kept] = self._targets[self._end - kept : self._end].copy()
            self._end = kept
        self._values[:, self._end : self._end + n] = values[:, len(targets) - n :]
        self._targets[self._end : self._end + n] = targets[len(targets) - n :]
        self._end += n

    def _grow(self, member: int) -> float:
        """Trees on what a window holds now, or none where they would tell nothing apart; its price in nanoseconds."""
        held = min(self._windows[member], self._end)
        values = self._values[:, self._end - held : self._end]
        targets = self._targets[self._end - held : self._end]
        self._grown_times += 1
        if self._numeric:
            return self._boost(member, values, _without_outliers(targets), np.empty(0, dtype=np.int64))
        classes = targets.astype(np.int64)
        counts = np.bincount(classes)
        present = np.flatnonzero(counts)
        if len(present) > GROUPS_MAX:
            commonest = np.argsort(-counts, kind="stable")[: GROUPS_MAX - 1]
            present = np.append(np.sort(commonest), -1)
        place = np.full(len(counts), len(present) - 1)
        place[present[present >= 0]] = np.arange((present >= 0).sum())
        return self._boost(member, values, place[classes].astype(np.float64), present)

    def _boost(self, member: int, values: Array, targets: Array, groups: NDArray[np.int64]) -> float:
        # The compiler is loaded by whoever learns, and by nobody else.
        from penstock.learn.fast.growing import cut, grow, place_in_bins

        d, n = values.shape
        depth = DEPTHS[member]
        outputs = 1 if len(groups) <= 2 else len(groups)
        centre, unit = 0.0, 1.0
        if self._numeric:
            centre, unit = float(targets.mean()), float(targets.std()) or 1.0
            targets = (targets - centre) / unit
            start = np.zeros(1)
        else:
            counts = np.bincount(targets.astype(np.int64), minlength=len(groups)) + 0.5
            start = np.log(counts[1:] / counts[0]) if outputs == 1 else np.log(counts / counts.sum())
        spare = 0.5 / (n + 1.0)
        if len(groups) == 1:
            nothing = np.zeros((0, depth))
            self._grown[member] = Trees(
                nothing.astype(np.int64), np.zeros((1, 0, depth)), np.zeros((0, 1 << depth, 1)), groups, spare
            )
            return 1e3
        category = self._columns.category
        values = np.ascontiguousarray(values)
        cuts, counted = cut(values, category, min(BINS[member], max(4, n // EVENTS_A_BIN)))
        bins = place_in_bins(values, cuts, counted)
        scores = np.repeat(start[None], n, axis=0)
        levels = depth * min(d, COLUMNS) * min(n, ROWS)
        nodes = (1 << depth) * min(d, COLUMNS) * BINS[member]
        price: float = outputs * (0.9 * levels + 0.7 * nodes) + 2.0 * depth * n
        trees = max(1, min(TREES, int(PRICE_MAX_NS / price)))
        asked, beyond, leaves = grow(
            bins, targets, scores, counted + 2, category, self._numeric, trees, depth, RATE, RIDGE,
            min(1.0, ROWS / n), COLUMNS, self._grown_times,
        )  # fmt: skip
        leaves *= unit
        leaves[0] += start + centre
        leaves = np.ascontiguousarray(leaves[:, _first_is_lowest(depth)])
        self._grown[member] = Trees(*_questions(asked, beyond, cuts, counted, category), leaves, groups, spare)
        return price * trees

    def save(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Counters; the window and the trees."""
        held = min(self._windows[-1], self._end)
        arrays = self.frozen() | {
            "trees.values": self._values[:, self._end - held : self._end].copy(),
            "trees.targets": self._targets[self._end - held : self._end].copy(),
        }
        values = {"seen": self._seen, "times": self._grown_times, "since": list(self._since), "credit": self._credit}
        return {"trees": values}, arrays

    def load(self, values: Mapping[str, Any], arrays: Arrays) -> None:
        """Become what was saved."""
        self.thaw({name: array.copy() for name, array in arrays.items() if name.startswith("trees.")})
        held = self._end = len(arrays["trees.targets"])
        self._values[:, :held] = arrays["trees.values"]
        self._targets[:held] = arrays["trees.targets"]
        counters = values["trees"]
        self._seen, self._grown_times = int(counters["seen"]), int(counters["times"])
        self._since, self._credit = [int(since) for since in counters["since"]], float(counters["credit"])


def _without_outliers(targets: Array) -> Array:
    """Outcomes cut at four times the distance between the quartiles from them: squares would follow a lone one."""
    targets = np.clip(targets, -HUGE, HUGE)
    low, high = np.quantile(targets, (0.25, 0.75))
    reach = 4.0 * (high - low)
    return np.clip(targets, low - reach, high + reach) if reach > 0 else targets


def _questions(
    asked: NDArray[np.int64], beyond: NDArray[np.int64], cuts: Array, counted: NDArray[np.int64], category: NDArray[Any]
) -> tuple[NDArray[np.int64], Array]:
    """(trees, depth) columns and bounds of what was asked in bins. Bin b lies above cut b - 2 and up
    to cut b - 1; a number's question is for more than bin b, a category's for bin b itself."""
    columns = np.maximum(asked, 0)
    is_code = category[columns]
    below = np.where(is_code, beyond - 2, beyond - 1)
    low = np.where(below >= 0, cuts[columns, np.maximum(below, 0)], -np.inf)
    above = np.minimum(beyond - 1, cuts.shape[1] - 1)
    ends = is_code & (beyond - 1 < counted[columns])
    high = np.where(ends, cuts[columns, np.maximum(above, 0)], np.inf)
    low = np.where(asked < 0, np.inf, low)
    return columns, np.stack((low, high)) if is_code.any() else np.ascontiguousarray(low)[None]


@cache
def _first_is_lowest(depth: int) -> NDArray[np.intp]:
    """(2^depth,) where a leaf stood when the answer to the first question was the highest bit of its place."""
    places = np.arange(1 << depth)
    return sum(((places >> level) & 1) << (depth - 1 - level) for level in range(depth)) + np.zeros_like(places)
