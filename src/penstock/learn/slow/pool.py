"""A stratified sample of a stream, the same however the stream was cut into batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch, concatenate, decode, encode
from penstock.join.labelled import labels_of, told_by

Keys = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class Kept:
    """n events, the oldest first."""

    batch: Batch
    places: NDArray[np.int64]
    """(n,) how many labelled events came before each."""
    logits: NDArray[np.float32]
    """(n, classes or 1) what a base answered when it first learned each event; NaN where it answered nothing yet, or
    did not know the class."""

    def __len__(self) -> int:
        return len(self.batch)

    def rows(self, keep: NDArray[np.intp]) -> Kept:
        """The events at these places of the arrays, in this order."""
        return Kept(self.batch.rows(keep), self.places[keep], self.logits[keep])


class Pool:
    """A stratified sample of bounded size. Strata are numbered from 0 in the order in which they first came."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._parts: list[Kept] = []
        self._strata: list[NDArray[np.int64]] = []
        self._keys: list[Keys] = []
        self._pending = 0

    def add(self, events: Kept, strata: NDArray[np.int64], keys: Keys, span: int) -> None:
        """Take in n events that came after all others; ``span`` is the present length of a span in events."""
        if not len(events):
            return
        self._parts.append(events)
        self._strata.append(strata)
        self._keys.append(keys)
        self._pending += len(events)
        if self._pending > max(self._capacity, 1024):
            self.settle(span, events.logits.shape[1])

    def settle(self, span: int, columns: int) -> None:
        """Let go of what is beyond the water level; logits get as many columns."""
        if not self._parts:
            return
        events, strata, keys = self._whole()
        events = Kept(events.batch, events.places, widened(events.logits, columns))
        chosen = _chosen(strata, events.places // span, keys, self._capacity)
        if len(chosen) < len(events):
            events, strata, keys = events.rows(chosen), strata[chosen], keys[chosen]
        self._parts, self._strata, self._keys, self._pending = [events], [strata], [keys], 0

    def kept(self) -> Kept | None:
        """All that is there now."""
        return self._whole()[0] if self._parts else None

    def erase(self, gone: NDArray[np.intp]) -> None:
        """Without the events at these places of the arrays."""
        events, strata, keys = self._whole()
        keep = np.setdiff1d(np.arange(len(events)), gone)
        self._parts, self._strata, self._keys = [events.rows(keep)], [strata[keep]], [keys[keep]]

    def relabel(self, places: NDArray[np.intp], told: Sequence[Any], strata: NDArray[np.int64]) -> None:
        """Other labels for the events at these places of the arrays, and with them the strata that they belong to."""
        events, before, keys = self._whole()
        self._parts, self._strata, self._keys = [relabelled(events, places, told)], [before.copy()], [keys]
        self._strata[0][places] = strata

    def note(self, logits: NDArray[np.float32]) -> None:
        """Set the (n, classes) logits of all events."""
        events, strata, keys = self._whole()
        self._parts = [Kept(events.batch, events.places, logits)]
        self._strata, self._keys = [strata], [keys]

    def sort_anew(self, strata: Callable[[NDArray[np.int64]], NDArray[np.int64]]) -> None:
        """Put all events into these strata, given those that they are in."""
        if self._parts:
            _, before, _ = self._whole()
            self._strata = [strata(before)]

    def _whole(self) -> tuple[Kept, NDArray[np.int64], Keys]:
        if len(self._parts) > 1:
            self._parts = [joined(self._parts)]
            self._strata = [np.concatenate(self._strata)]
            self._keys = [np.concatenate(self._keys)]
        return self._parts[0], self._strata[0], self._keys[0]

    def save(self, name: str) -> dict[str, NDArray[Any]]:
        """Arrays whose names begin with ``name``."""
        if not self._parts:
            return {}
        events, strata, keys = self._whole()
        return packed(name, events) | {f"{name}.strata": strata.copy(), f"{name}.keys": keys.copy()}

    def load(self, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Become what was saved."""
        self._parts, self._strata, self._keys, self._pending = [], [], [], 0
        if f"{name}.keys" in arrays:
            self._parts = [unpacked(name, arrays)]
            self._strata, self._keys = [arrays[f"{name}.strata"].copy()], [arrays[f"{name}.keys"].copy()]


def relabelled(events: Kept, places: NDArray[np.intp], told: Sequence[Any]) -> Kept:
    """The events with these labels at these places."""
    labels: list[Any] = list(told_by(events.batch))
    for place, label in zip(places.tolist(), told, strict=True):
        labels[place] = label
    return replace(events, batch=replace(events.batch, labels=labels_of(labels)))


def joined(parts: list[Kept]) -> Kept:
    """These events one after the other, with the most classes that any of them has."""
    if len(parts) == 1:
        return parts[0]
    classes = max(part.logits.shape[1] for part in parts)
    return Kept(
        concatenate([part.batch for part in parts]),
        np.concatenate([part.places for part in parts]),
        np.concatenate([widened(part.logits, classes) for part in parts]),
    )


def widened(logits: NDArray[np.float32], classes: int) -> NDArray[np.float32]:
    """(n, classes) with NaN for classes that came later."""
    if logits.shape[1] >= classes:
        return logits
    wide = np.full((len(logits), classes), np.nan, np.float32)
    wide[:, : logits.shape[1]] = logits
    return wide


def packed(name: str, events: Kept) -> dict[str, NDArray[Any]]:
    """The events as arrays whose names begin with ``name``."""
    # Whose events they are is in the log alone, where they can be erased.
    batch = replace(events.batch, subjects=None)
    # Which of its parts had an id or a source at all must not be seen of a sample.
    ids = batch.ids if any(batch.ids or ()) else None
    sources = batch.sources if any(batch.sources or ()) else None
    return {
        f"{name}.events": np.frombuffer(b"".join(encode(replace(batch, ids=ids, sources=sources))), np.uint8),
        f"{name}.places": events.places.copy(),
        f"{name}.origins": np.full((len(batch), 2), -1) if batch.origins is None else batch.origins.copy(),
        f"{name}.logits": events.logits.copy(),
    }


def unpacked(name: str, arrays: Mapping[str, NDArray[Any]]) -> Kept:
    """What was packed."""
    batch = decode(arrays[f"{name}.events"].tobytes())
    if f"{name}.origins" in arrays:
        # What was kept before events had origins has none, and is not corrected any more.
        batch = replace(batch, origins=arrays[f"{name}.origins"].copy())
    return Kept(batch, arrays[f"{name}.places"].copy(), arrays[f"{name}.logits"].copy())


def _chosen(strata: NDArray[np.int64], spans: NDArray[np.int64], keys: Keys, capacity: int) -> NDArray[np.intp]:
    """(at most capacity,) ascending places of the events to be kept."""
    if len(keys) <= capacity:
        return np.arange(len(keys))
    keep: list[NDArray[np.intp]] = []
    numbers, of_class = np.unique(strata, return_inverse=True)
    budgets = shares(np.bincount(of_class), capacity)
    for number in range(len(numbers)):
        members = np.flatnonzero(of_class == number)
        _, of_span = np.unique(spans[members], return_inverse=True)
        for span, share in enumerate(shares(np.bincount(of_span), int(budgets[number]))):
            inside = members[of_span == span]
            # Equal keys do not come, since the hash is a bijection of the place.
            keep.append(inside[np.argsort(keys[inside])[:share]])
    return np.sort(np.concatenate(keep))


def shares(sizes: NDArray[np.intp], capacity: int) -> NDArray[np.intp]:
    """How many to keep of groups of these sizes, ``capacity`` in all: the same of each that has as many, and one
    more of the first of them as far as it goes."""
    if int(sizes.sum()) <= capacity:
        return sizes
    low, high = 0, int(sizes.max())
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if int(np.minimum(sizes, middle).sum()) <= capacity else (low, middle - 1)
    given = np.minimum(sizes, low)
    more = np.flatnonzero(sizes > low)[: capacity - int(given.sum())]
    given[more] += 1
    return given
