"""Whether what is answered has become distributed otherwise than it was: a drift of predictions, which needs no label.

Every 512 answers the newest 1,024 are compared with up to 4,096 before them, as inputs are with what a base was trained
on (`penstock.learn.inputs`): by the population stability index (Siddiqi 2006), and by the likelihood-ratio test (Wilks
1938, with Chernoff's bound of the tail). Its k-th look at c columns has 0.05 / (c k (k + 1)) of the chance, so that all
looks together keep 0.05 while answers are independent. A model that learns moves its answers all the time, and where
answers go on to be like the last ones some hundreds of them are far from all others; so they also have to be three
times as far away as any 512 in a row of the reference are from the rest of it. Pure.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.learn.inputs import CHANCE, USUAL_TIMES, VALUES_MAX, distance

Array = NDArray[np.float64]

LOOK_EVENTS = 512
"""Answers between two looks."""
NEWEST = 2
"""Spans of so many answers that are compared."""
REFERENCE_MIN, REFERENCE_MAX = 4, 8
"""Spans before them with which they are compared: with fewer nothing is said."""
BINS = 10
"""Of equal width, of chances; of numbers the deciles of the reference."""


class Moved(msgspec.Struct, frozen=True, kw_only=True):
    """How far the newest answers are from those before."""

    column: str = ""
    """``classes``, ``chances`` or ``numbers``: the one that is the furthest away, of those alone that drifted where
    any has."""
    index: float = 0.0
    """Its population stability index."""
    is_shown: bool = False
    """Whether that is a drift: more than is allowed, no luck, and three times as far away as any span before."""
    events: int = 0
    """How many answers were compared."""


class AnsweredWatch:
    """The newest spans of answers."""

    def __init__(self, most: float) -> None:
        """``most`` is the index up to which answers have not moved."""
        self._most = most
        self._looks = 0
        self._spans: dict[str, list[Any]] = {}
        """Of each column, the newest last, what there is of each span: how many of each class, how many chances in each
        bin, or the numbers themselves."""

    def look(self, columns: Mapping[str, Array | Sequence[str]]) -> Moved | None:
        """One more span of answers: (n,) values of each column; None while there is nothing to compare it with.

        Where answers have moved, what was before them is no reference any more."""
        self._looks += 1
        for name, values in columns.items():
            spans = self._spans.setdefault(name, [])
            spans.append(_kept(name, values))
            del spans[: -NEWEST - REFERENCE_MAX]
        found = None
        nats = math.log(len(columns) * self._looks * (self._looks + 1) / CHANCE)
        for name, spans in self._spans.items():
            if len(spans) >= NEWEST + REFERENCE_MIN:
                moved = self._moved(name, spans, nats)
                if found is None or (moved.is_shown, moved.index) > (found.is_shown, found.index):
                    found = moved
        if found is not None and found.is_shown:
            self._spans = {name: spans[-NEWEST:] for name, spans in self._spans.items()}
        return found

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack."""
        spans = {name: [s.tolist() if isinstance(s, np.ndarray) else s for s in of] for name, of in self._spans.items()}
        return {"looks": self._looks, "spans": spans}

    def load(self, state: dict[str, Any]) -> None:
        """Become what was saved."""
        self._looks = state["looks"]
        self._spans = {
            name: list(map(np.asarray, spans)) if name == "numbers" else list(spans)
            for name, spans in state["spans"].items()
        }

    def _moved(self, name: str, spans: list[Any], nats: float) -> Moved:
        counts = _counts(name, spans)
        newest, reference = counts[-NEWEST:].sum(axis=0), counts[:-NEWEST]
        whole = reference.sum(axis=0)
        found = distance(newest, whole)
        is_shown = found.psi > self._most and found.nats > nats
        # How far spans of the reference are from its rest is asked of few looks.
        if is_shown:
            is_shown = found.psi > USUAL_TIMES * max(distance(span, whole - span).psi for span in reference)
        return Moved(column=name, index=found.psi, is_shown=is_shown, events=int(newest.sum()))


def _kept(name: str, values: Array | Sequence[str]) -> Any:
    """What is kept of a span."""
    if name == "classes":
        return dict(sorted(Counter(values).items()))
    numbers = np.asarray(values, np.float64)
    if name == "numbers":
        return numbers
    places = np.minimum((np.clip(numbers, 0.0, 1.0) * BINS).astype(np.intp), BINS - 1)
    return np.bincount(places, minlength=BINS).tolist()


def _counts(name: str, spans: list[Any]) -> NDArray[np.int64]:
    """(spans, bins) how many values of each span lie in each bin."""
    if name == "chances":
        return np.array(spans, np.int64)
    if name == "classes":
        totals: Counter[str] = Counter()
        for span in spans:
            totals.update(span)
        frequent = [value for value, _ in totals.most_common(VALUES_MAX)]
        rows = [[span.get(value, 0) for value in frequent] for span in spans]
        return np.array([[*row, sum(s.values()) - sum(row)] for row, s in zip(rows, spans, strict=True)], np.int64)
    known = np.sort(np.concatenate(spans[:-NEWEST]))
    edges = np.unique(known[np.arange(1, BINS) * len(known) // BINS])
    width, lengths = len(edges) + 1, [len(span) for span in spans]
    # All spans in one call: bins of the second one have the numbers behind those of the first one, and so on.
    behind = np.repeat(np.arange(len(spans)) * width, lengths)
    places = np.searchsorted(edges, np.concatenate(spans), side="right") + behind
    return np.bincount(places, minlength=len(spans) * width).reshape(len(spans), width).astype(np.int64)
