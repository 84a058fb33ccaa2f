"""From a batch's columns to one matrix of numbers: standardised, with missing values made explicit.

Columns of the matrix, in this order: standardised numbers, the seconds of timestamps and the entries of vectors;
booleans as 0 or 1; six waves a timestamp (hour of the day, day of the week, day of the year); the buckets of each
category; the buckets of each text; and at the end one indicator for each feature that was ever missing, in the order in
which they went missing first. All but the indicators are there from the beginning, so the matrix only grows at its end.
A category's values take its buckets in the order in which they arrive, and only those beyond the last bucket share one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch, Schema, Strings
from penstock.spec import Spec

Matrix = NDArray[np.float64]

CLIP = 8.0
"""Standard deviations beyond which a value counts as this far out: one broken sensor must not turn every weight."""
HUGE = 1e100
"""Values are cut here, so that their squares stay finite."""
WARM_UP = 64
"""Events after which a value is no longer taken into the statistics beyond OUTLIER standard deviations."""
OUTLIER = 6.0
"""A lone 1e300 would otherwise flatten its feature for ever; a true change of scale still gets through, since values at
the edge widen the deviation step by step."""
CACHED = 1 << 16
"""Tokens whose bucket is remembered; a full cache is emptied, which changes time and never a result."""
CATEGORY_BUCKETS = 32
TEXT_BUCKETS = 256
WORD = re.compile(r"\w+")
# Wavelengths in seconds of a day, a week and a year; the epoch began on a Thursday, which only shifts the phase.
WAVES = 2 * np.pi / np.array([86400.0, 7 * 86400.0, 365.2425 * 86400.0])


class Buckets:
    """Places for the n-grams of a text in a fixed number of columns, by a hash that is the same on every machine.

    Collisions are accepted: two values in one bucket share a weight. The hash is keyed by the feature's name, so two
    features do not collide in the same way.
    """

    def __init__(self, feature: str, count: int) -> None:
        self.count = count
        self._key = hashlib.blake2b(feature.encode(), digest_size=16).digest()
        self._known: dict[str, int] = {}

    def of(self, value: str) -> int:
        """The bucket of one value."""
        bucket = self._known.get(value)
        return self._remember(value, self._hash(value) % self.count) if bucket is None else bucket

    def _hash(self, value: str) -> int:
        digest = hashlib.blake2b(value.encode("utf-8", "surrogatepass"), digest_size=8, key=self._key).digest()
        return int.from_bytes(digest, "little")

    def _remember(self, value: str, bucket: int) -> int:
        if len(self._known) >= CACHED:
            self._known.clear()
        self._known[value] = bucket
        return bucket

    def of_text(self, text: str) -> list[int]:
        """The buckets of a text's words, pairs of words, and character 3- and 4-grams within words, with
        repetitions."""
        words = WORD.findall(text.lower())
        of = self.of
        found = [of(word) for word in words]
        found += [of(f"{a} {b}") for a, b in pairwise(words)]
        for word in words:
            edged = f"<{word}>"
            found += [of("#" + edged[i : i + k]) for k in (3, 4) for i in range(len(edged) - k + 1)]
        return found


class Places(Buckets):
    """Places for the values of a category: each takes the next free column when it is first learned from.

    A hash alone puts two of three values into one of 32 columns in nearly a tenth of all services, and what divides
    these two can then never be learned. Values that arrive when all columns are taken share them by their hash. What is
    kept of a value is its hash, so that a state is numbers alone.
    """

    def __init__(self, feature: str, count: int) -> None:
        super().__init__(feature, count)
        self._taken: dict[int, int] = {}

    def of(self, value: str) -> int:
        """The column of one value; -1 for one that was not taken in and will get its own."""
        place = self._known.get(value)
        if place is None:
            hashed = self._hash(value)
            place = self._taken.get(hashed, -1 if len(self._taken) < self.count else hashed % self.count)
            if place >= 0:
                self._remember(value, place)
        return place

    def take(self, values: Strings) -> int:
        """Give new values their columns while there are any, in order; how many got one."""
        before = len(self._taken)
        if before < self.count:
            for value in dict.fromkeys(values):
                if value is not None and len(self._taken) < self.count and self.of(value) < 0:
                    self._taken[self._hash(value)] = len(self._taken)
        return len(self._taken) - before

    def save(self) -> NDArray[np.uint64]:
        """(taken columns,) the hash of each column's value."""
        return np.array(list(self._taken), dtype=np.uint64)

    def load(self, hashes: NDArray[np.uint64]) -> None:
        """Become what was saved."""
        taken = {hashed: place for place, hashed in enumerate(hashes.tolist())}
        if taken != self._taken:
            self._taken = taken
            self._known = {}


class Encoder:
    """Running statistics of the inputs, and the matrix made with them."""

    def __init__(self, spec: Spec, *, compiled: bool = False) -> None:
        """``compiled`` where the compiler may be loaded: the same to the last bit, in less time."""
        self._standardise: Callable[..., None] | None = None
        if compiled:
            from penstock.learn.fast.tallies import standardise

            self._standardise = standardise
        schema = Schema.of(spec)
        types = [spec.features[name].type for name in schema.numbers]
        self._plain = np.array([i for i, t in enumerate(types) if t != "boolean"], dtype=np.intp)
        self._booleans = np.array([i for i, t in enumerate(types) if t == "boolean"], dtype=np.intp)
        self._timestamps = np.array([i for i, t in enumerate(types) if t == "timestamp"], dtype=np.intp)
        self._all_plain = len(self._plain) == len(types)
        self._widths = [width for _, width in schema.vectors]
        self._strings = []
        for name in schema.strings:
            feature = spec.features[name]
            is_text = feature.type == "text"
            buckets = feature.buckets or (TEXT_BUCKETS if is_text else CATEGORY_BUCKETS)
            self._strings.append((is_text, Buckets(name, buckets) if is_text else Places(name, buckets)))
        # Categories first, then texts, in the schema's order.
        self._strings_order = sorted(range(len(self._strings)), key=lambda i: self._strings[i][0])
        standardised = len(self._plain) + sum(self._widths)
        self.fixed = (
            standardised
            + len(self._booleans)
            + 2 * len(WAVES) * len(self._timestamps)
            + sum(buckets.count for _, buckets in self._strings)
        )
        """Columns before the indicators."""
        self.inputs = max(1, len(types) + sum(self._widths) + len(self._strings) + 5 * len(self._timestamps))
        """About how large a row's squared norm is: one for each standardised value, wave pair or bucketed value."""
        self._features = len(types) + len(self._widths) + len(self._strings)
        self._count = np.zeros(standardised)
        self._mean = np.zeros(standardised)
        self._squares = np.zeros(standardised)
        self._inverse = np.zeros(standardised)
        self._centre = np.zeros(standardised)
        """What is subtracted: each column's own mean, but one for all entries of a vector, like its deviation."""
        ends = len(self._plain) + np.cumsum([0, *self._widths])
        self._vectors = [slice(int(start), int(end)) for start, end in pairwise(ends)]
        self._missed: list[int] = []
        self._is_missed = np.zeros(self._features, dtype=bool)
        self._places = [(i, found) for i, (_, found) in enumerate(self._strings) if isinstance(found, Places)]
        self._seen = 0.0 if standardised else np.inf

    @property
    def width(self) -> int:
        """Columns of the matrix now."""
        return self.fixed + len(self._missed)

    @property
    def seen(self) -> float:
        """Values of the best known standardised column so far; infinite where there is none."""
        return self._seen

    @property
    def categories(self) -> int:
        """Features that are categories."""
        return len(self._places)

    def codes(self, batch: Batch) -> Matrix:
        """(categories, n) the places of categories' values; NaN for a missing value and for one not taken in yet."""
        found = np.full((self.categories, len(batch)), np.nan)
        for row, (i, places) in zip(found, self._places, strict=True):
            for event, value in enumerate(batch.strings[i]):
                if value is not None and (place := places.of(value)) >= 0:
                    row[event] = place
        return found

    def _raw(self, batch: Batch) -> Matrix:
        """(n, standardised columns) values before standardising; NaN is missing."""
        numbers = batch.numbers if self._all_plain else batch.numbers[:, self._plain]
        return np.concatenate((numbers, *batch.vectors), axis=1) if batch.vectors else numbers

    def encode(self, batch: Batch) -> Matrix:
        """(n, width) inputs, by the statistics as they are."""
        standard = self._standard(self._raw(batch))
        if self.fixed == standard.shape[1] and not self._missed:
            return standard
        encoded = np.zeros((len(standard), self.width))
        at = standard.shape[1]
        encoded[:, :at] = standard
        if len(self._booleans):
            encoded[:, at : at + len(self._booleans)] = batch.numbers[:, self._booleans] > 0.5
            at += len(self._booleans)
        for column in self._timestamps:
            angles = np.nan_to_num(batch.numbers[:, column])[:, None] * WAVES
            waves = np.concatenate((np.sin(angles), np.cos(angles)), axis=1)
            waves[np.isnan(batch.numbers[:, column])] = 0.0
            encoded[:, at : at + 2 * len(WAVES)] = waves
            at += 2 * len(WAVES)
        for i in self._strings_order:
            is_text, buckets = self._strings[i]
            columns = encoded[:, at : at + buckets.count]
            (_fill_texts if is_text else _fill_categories)(columns, batch.strings[i], buckets)
            at += buckets.count
        if self._missed:
            encoded[:, at:] = self._missing(batch)[:, self._missed]
        return encoded

    def _standard(self, raw: Matrix) -> Matrix:
        """(n, standardised columns) raw values by the statistics as they are; 0 for what is missing."""
        standard: Matrix = np.maximum(raw, -HUGE, order="C")
        if self._standardise is not None:
            self._standardise(standard, HUGE, CLIP, self._centre, self._inverse)
            return standard
        np.minimum(standard, HUGE, out=standard)
        standard -= self._centre
        standard *= self._inverse
        np.minimum(standard, CLIP, out=standard)
        np.maximum(standard, -CLIP, out=standard)
        # A sum is NaN as soon as one value is: one pass, where looking for NaN itself takes two.
        if np.isnan(standard.sum()):
            standard[np.isnan(standard)] = 0.0
        return standard

    def _missing(self, batch: Batch) -> NDArray[np.bool_]:
        """(n, features) which features each event lacks: numbers, then vectors, then strings."""
        parts = [np.isnan(batch.numbers)]
        parts += [np.isnan(vector[:, :1]) for vector in batch.vectors]
        parts += [np.array([value is None for value in values])[:, None] for values in batch.strings]
        return np.concatenate(parts, axis=1)

    def absorb(self, batch: Batch) -> bool:
        """Take a step's events into the statistics (Chan, Golub and LeVeque 1979: two samples' moments, merged);
        whether the columns of some of them mean something else now: a category's new value, a value missing first."""
        width = self.width
        new = sum(places.take(batch.strings[i]) for i, places in self._places)
        self._absorb_moments(batch)
        return new > 0 or self.width > width

    def _absorb_moments(self, batch: Batch) -> None:
        # The compiler is loaded by whoever learns, and by nobody else.
        from penstock.learn.fast.tallies import absorb, invert

        values = np.ascontiguousarray(np.minimum(np.maximum(self._raw(batch), -HUGE), HUGE))
        deviation = np.empty(len(self._mean))
        self._seen, is_missing = absorb(
            values, WARM_UP, OUTLIER, self._seen, self._count, self._mean, self._squares, self._centre, self._inverse,
            deviation,
        )  # fmt: skip
        if is_missing or any(None in values for values in batch.strings):
            self._note_missing(batch)
        self._centre = self._pool(deviation)
        invert(self._centre, deviation, self._inverse)

    def _pool(self, deviation: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Centres, and into ``deviation`` one for all entries of each vector.

        The entries of a vector (pixels, an embedding) share a unit, so that their moments together are those of one
        column. They settle within a few events and stay, while those of a single pixel change with each new class that
        arrives; what was learned before would then be read in other units than it was learned in."""
        centre = self._mean.copy()
        for entries in self._vectors:
            count, mean = self._count[entries], self._mean[entries]
            events = max(float(count.sum()), 1.0)
            centre[entries] = middle = float((count * mean).sum()) / events
            if deviation is not None:
                between = float((count * (mean - middle) ** 2).sum())
                deviation[entries] = np.sqrt((float(self._squares[entries].sum()) + between) / events)
        return centre

    def _note_missing(self, batch: Batch) -> None:
        ever = self._missing(batch).any(axis=0)
        for feature in np.flatnonzero(ever & ~self._is_missed):
            self._missed.append(int(feature))
            self._is_missed[feature] = True

    def save(self) -> dict[str, NDArray[Any]]:
        """Copies of the statistics; ``load`` takes them back."""
        return {
            "encoder.count": self._count.copy(),
            "encoder.mean": self._mean.copy(),
            "encoder.squares": self._squares.copy(),
            "encoder.inverse": self._inverse.copy(),
            "encoder.missed": np.array(self._missed, dtype=np.int64),
        } | {f"encoder.places.{i}": places.save() for i, places in self._places}

    def load(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Become what was saved."""
        self._count = arrays["encoder.count"].copy()
        self._mean = arrays["encoder.mean"].copy()
        self._squares = arrays["encoder.squares"].copy()
        self._inverse = arrays["encoder.inverse"].copy()
        self._centre = self._pool()
        self._seen = float(self._count.max()) if len(self._count) else np.inf
        self._missed = [int(feature) for feature in arrays["encoder.missed"]]
        self._is_missed = np.zeros(self._features, dtype=bool)
        self._is_missed[self._missed] = True
        for i, places in self._places:
            places.load(arrays[f"encoder.places.{i}"])


def _fill_categories(columns: Matrix, values: Strings, buckets: Buckets) -> None:
    for row, value in enumerate(values):
        if value is not None and (place := buckets.of(value)) >= 0:
            columns[row, place] = 1.0


def _fill_texts(columns: Matrix, values: Strings, buckets: Buckets) -> None:
    for row, value in enumerate(values):
        if value:
            counts = np.bincount(np.array(buckets.of_text(value), dtype=np.intp), minlength=buckets.count)
            norm = float(np.sqrt((counts * counts).sum()))
            if norm:
                columns[row] = counts / norm
