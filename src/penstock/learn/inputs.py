"""What a base was trained on, feature by feature, and whether the inputs that come now have left that. Pure.

Beside a base stands, for each feature, how many events of its training fell into each of a few bins: those that were
recent then, in the shares in which they came, and those of the past, which are kept alike over classes and over time.
Of the labelled events that are learned the same is counted, and after so many of them compared with both, by the
population stability index (Siddiqi 2006), the symmetric relative entropy of two distributions over k bins:

    PSI = sum over bins of (p - q) ln(p / q),    p = (n + 1/2) / (N + k/2), and q likewise

and by the likelihood-ratio test that both are samples of one distribution, so that it is known whether luck would give
as much. Inputs have left what training saw where both say so, of what was recent and of the past: what comes back to
the past has not. Where inputs go on to be like the last ones, or follow the time of day, some hundreds of them are far
from all others without anything new in them: so they also have to be three times as far away as any in a row of the
training itself.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch, Schema, Strings
from penstock.spec import Spec

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

FORMAT = 1
BINS = 10
"""Of a number, by the deciles of what it was trained on, as is usual for this figure; two more for what lies beyond."""
VALUES_MAX = 32
"""Values of a category, the most frequent, that are counted by themselves."""
DIRECTIONS = 4
"""A vector is looked at in so many random directions: entries have little meaning one by one."""
COLUMNS_MAX = 256
"""Columns that are looked at; with more the first of them."""
SEEN_MIN = 256
"""Recent events without which a base does not say what it was trained on."""
WINDOW = 512
"""Recent events in a row that are compared with the others in training: at least as many are compared later."""
WINDOWS_MIN = 4
"""With fewer recent events windows are shorter, and so seem further away than they are."""
USUAL_TIMES = 3.0
"""So far beyond the furthest of them inputs have to be."""
CHANCE = 0.05
"""Of saying of inputs that have not changed that they have left what was seen, over all features and all looks."""


class SeenColumn(msgspec.Struct, frozen=True, array_like=True):
    """What was seen of one column."""

    name: str
    """That of the feature, with a number for each direction of a vector."""
    edges: tuple[float, ...]
    """Ascending, of a number: a bin begins at each, and one is below the first."""
    values: tuple[str, ...]
    """Of a category; all others are one bin more."""
    recent: tuple[int, ...]
    """Events in each bin; the last is of those without a value."""
    past: tuple[int, ...]
    usual: float = 0.0
    """The population stability index of the recent events in a row that are the furthest from the others."""


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """What a base was trained on."""

    format: int = FORMAT
    columns: tuple[SeenColumn, ...]


class Departed(msgspec.Struct, frozen=True, kw_only=True):
    """How far the inputs of the newest events are from what a base was trained on."""

    feature: str = ""
    """The one that is the furthest away; of those alone of which it is no luck, where there are any."""
    index: float = 0.0
    """Its population stability index, the lower one of those against recent events and against those of the past."""
    is_shown: bool = False
    """Whether luck would bring it so far with a chance of at most 0.05, over all features and looks together, and it is
    three times as far away as anything of the training itself."""
    events: int = 0
    """How many events were compared."""


class Columns:
    """The columns of a service's events that are looked at: numbers and booleans as they are, categories, the length of
    texts, and vectors in a few directions. Points in time are not: they never come back."""

    def __init__(self, spec: Spec) -> None:
        schema = Schema.of(spec)
        types = {name: feature.type for name, feature in spec.features.items()}
        self._numbers = [(i, name) for i, name in enumerate(schema.numbers) if types[name] != "timestamp"]
        self._strings = [(i, name, types[name] == "category") for i, name in enumerate(schema.strings)]
        self._vectors = [(i, name, _directions(name, width)) for i, (name, width) in enumerate(schema.vectors)]

    def read(self, batch: Batch) -> Iterator[tuple[str, Array | Strings]]:
        """The name of each column, and its values: numbers with NaN where one is missing, or strings with None."""
        for place, name in self._numbers:
            yield name, batch.numbers[:, place]
        for place, name, is_category in self._strings:
            values = batch.strings[place]
            yield name, values if is_category else np.array([np.nan if v is None else len(v) for v in values])
        for place, name, directions in self._vectors:
            seen = batch.vectors[place].astype(np.float64) @ directions
            yield from ((f"{name} (direction {i + 1})", seen[:, i]) for i in range(DIRECTIONS))


def seen_of(spec: Spec, recent: Batch | None, past: Batch) -> Seen | None:
    """What a base that is trained on these events has seen; None where that is too little to be known by."""
    if recent is None or len(recent) < SEEN_MIN:
        return None
    columns = Columns(spec)
    both = zip(columns.read(recent), columns.read(past), strict=True)
    return Seen(columns=tuple(_seen(name, new, old) for (name, new), (_, old) in list(both)[:COLUMNS_MAX]))


def _seen(name: str, recent: Array | Strings, past: Array | Strings) -> SeenColumn:
    edges: tuple[float, ...] = ()
    values: tuple[str, ...] = ()
    if isinstance(recent, list):
        frequent = Counter(value for value in (*recent, *past) if isinstance(value, str))
        values = tuple(value for value, _ in frequent.most_common(VALUES_MAX))
    else:
        known = np.concatenate([recent, np.asarray(past, np.float64)])
        known = known[np.isfinite(known)]
        if len(known):
            inner = np.quantile(known, np.arange(1, BINS) / BINS, method="inverted_cdf")
            edges = tuple(np.unique([known.min(), *inner, np.nextafter(known.max(), np.inf)]).tolist())
    bins = SeenColumn(name, edges, values, (), ())
    of_recent, of_past = binned(bins, recent), binned(bins, past)
    length = min(WINDOW, len(recent) // WINDOWS_MIN)
    windows = [binned(bins, recent[at : at + length]) for at in range(0, len(recent) - length + 1, length)]
    usual = max(distance(window, of_recent - window).psi for window in windows)
    return SeenColumn(name, edges, values, tuple(of_recent.tolist()), tuple(of_past.tolist()), usual)


def binned(column: SeenColumn, values: Array | Strings) -> Counts:
    """(bins,) how many of these values lie in each; those that are missing, or no numbers, in the last."""
    if isinstance(values, list):
        places = {value: place for place, value in enumerate(column.values)}
        others = len(places)
        found = [others + 1 if value is None else places.get(value, others) for value in values]
        return np.bincount(np.array(found, np.intp), minlength=others + 2).astype(np.int64)
    missing = len(column.edges) + 1
    place = np.searchsorted(np.array(column.edges), values, side="right")
    place[~np.isfinite(values)] = missing
    return np.bincount(place, minlength=missing + 1).astype(np.int64)


class Distance(NamedTuple):
    """How far two samples of one column are apart."""

    psi: float
    nats: float
    """Against luck: the chance of as much is at most exp(-nats)."""


def distance(one: Sequence[int] | Counts, other: Sequence[int] | Counts) -> Distance:
    """Between two samples, by their events in each bin.

    The likelihood ratio's distribution is that of chi-squared with one degree less than there are bins with an event
    (Wilks 1938), whose tail beyond x is at most exp(-(x - k - k ln(x / k)) / 2) (Chernoff)."""
    n, m = np.asarray(one, np.float64), np.asarray(other, np.float64)
    used = (n + m) > 0
    n, m = n[used], m[used]
    total, against = n.sum(), m.sum()
    if len(n) < 2 or not total or not against:
        return Distance(0.0, 0.0)
    p, q = (n + 0.5) / (total + len(n) / 2), (m + 0.5) / (against + len(n) / 2)
    index = float(((p - q) * np.log(p / q)).sum())
    expected = (n + m) / (total + against)
    ratio = 2.0 * sum(
        float((c[c > 0] * np.log(c[c > 0] / (s * expected[c > 0]))).sum()) for c, s in ((n, total), (m, against))
    )
    freedom = len(n) - 1
    return Distance(index, (ratio - freedom - freedom * math.log(ratio / freedom)) / 2 if ratio > freedom else 0.0)


def departed(seen: Seen, counts: Sequence[Counts], events: int, look: int) -> Departed:
    """What the ``look``-th look at a base's inputs sees, whose (bins,) counts a column these are."""
    # Over all looks the chances of 1 / (k (k + 1)) sum to 1.
    nats = math.log(len(seen.columns) * look * (look + 1) / CHANCE)
    found = Departed(events=events)
    for column, count in zip(seen.columns, counts, strict=True):
        known = [distance(count, past) for past in (column.recent, column.past) if any(past)]
        index = min(one.psi for one in known)
        is_shown = index > USUAL_TIMES * column.usual and all(one.nats > nats for one in known)
        if (is_shown, index) > (found.is_shown, found.index):
            found = Departed(feature=column.name, index=index, is_shown=is_shown, events=events)
    return found


def _directions(name: str, width: int) -> Array:
    """(width, DIRECTIONS) of unit length, on the mean; those of a name and width are always the same."""
    drawn: Any = np.random.default_rng(zlib.crc32(name.encode())).normal(size=(width, DIRECTIONS))
    directions: Array = drawn / math.sqrt(width)
    return directions
