"""What is kept of the past for replay: labelled events, alike over classes and over time, the same for the same stream.

Every event draws a key, a hash of the seed and its place in the stream. A stratum is a class (for a regression a
quantile of the label; where events have several classes, the rarest) within a span of time; from each the events with
the lowest keys are kept, which is a uniform sample of it (bottom-k sampling, Cohen and Kaplan 2007). How many is the
water level: as many from each class, then from each span within it, as fit in all. The level only sinks, so that
whatever was let go would not be kept later, and the result does not depend on how the stream was cut into batches. One
event in ten is held out for judging by, never for training, and kept in the same way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from penstock.errors import CheckpointDamaged
from penstock.events import Batch, Kind, class_names, concatenate
from penstock.join.interface import Told
from penstock.join.labelled import labels_of, told_by
from penstock.learn.amendments import Amendments
from penstock.learn.fast.multilabel import places_of_sets
from penstock.learn.interface import State
from penstock.learn.slow.pool import Kept, Keys, Pool, joined, packed, relabelled, unpacked, widened
from penstock.spec import NUMBER_TASKS, ClassName, ClassSet, Spec

FORMAT = 1
SPANS = 16
"""Spans of time at most: when they are full, neighbours become one, and each is twice as long from then on."""
SPAN_EVENTS = 1024
"""Events of the first spans."""
HELD_OUT = 10
"""One event in so many is held out."""
HELD_OUT_SHARE = 0.5
"""Of as many as are kept for replay, so many are kept of those held out."""
QUANTILES = 8
"""Strata of a regression's labels, by the quantiles of the first QUANTILE_EVENTS."""
QUANTILE_EVENTS = 256
RECENT_SHARE = 4
"""Times what is kept for replay, so many recent events are kept beside it: those since the last training, at most."""


class Reservoir:
    """The labelled events of one service that a base is trained on: replay, recent ones, and those held out."""

    def __init__(self, spec: Spec, *, seed: int | None = None) -> None:
        capacity = spec.consolidate.replay
        self._seed = spec.learn.seed if seed is None else seed
        self._is_regression = spec.task in NUMBER_TASKS
        self._replay = Pool(capacity)
        self._held = Pool(max(1, round(HELD_OUT_SHARE * capacity)))
        self._recent: deque[Kept] = deque()
        self._recent_max = RECENT_SHARE * capacity
        self.count = 0
        """Labelled events that came so far."""
        self._span = SPAN_EVENTS
        self._classes: list[ClassName] = list(spec.label.classes)
        if spec.task == "binary" and not self._classes:
            self._classes = [ClassName("0"), ClassName("1")]
        self._classes_max = 2 if spec.task == "binary" else spec.label.classes_max
        self._is_set = spec.task == "multilabel"
        self._came_of: list[int] = []
        """Events that had each class, where they have several together."""
        self._edges: NDArray[np.float64] | None = None
        self._first: list[Batch] = []

    @property
    def classes(self) -> tuple[ClassName, ...]:
        """The classes that came, in their order, which is that of the logits' columns."""
        return tuple(self._classes)

    @property
    def _columns(self) -> int:
        return len(self._classes) or 1

    @property
    def replay(self) -> Kept | None:
        """The sample of all events that are trained on; None before the first."""
        self._replay.settle(self._span, self._columns)
        return self._replay.kept()

    @property
    def held_out(self) -> Kept | None:
        """The sample of all events that are never trained on; None before the first."""
        self._held.settle(self._span, self._columns)
        return self._held.kept()

    @property
    def recent(self) -> Kept | None:
        """The newest events since the last training, without those that are held out; None where there are none."""
        if not self._recent:
            return None
        whole = joined(list(self._recent))
        return Kept(whole.batch, whole.places, widened(whole.logits, self._columns))

    def before(self, place: int) -> Batch | None:
        """All that is kept of the events before this place in the stream, in their order; None where nothing is."""
        parts = [kept.rows(np.flatnonzero(kept.places < place)) for kept in (self.replay, self.held_out) if kept]
        parts = [part for part in parts if len(part)]
        if not parts:
            return None
        whole = joined(parts)
        return whole.batch.rows(np.argsort(whole.places))

    def add(self, batch: Batch) -> None:
        """Take in labelled events, in their order. Those of a class that the task has no room for are passed over, as
        in learning."""
        batch = self._takeable(as_example(batch))
        if self._is_regression and self._edges is None:
            self._first.append(batch)
            if sum(map(len, self._first)) < QUANTILE_EVENTS:
                return
            batch, self._first = concatenate(self._first), []
            labels = np.asarray(batch.labels)[:QUANTILE_EVENTS]
            self._edges = np.unique(np.quantile(labels, np.arange(1, QUANTILES) / QUANTILES))
        at = 0
        while at < len(batch):
            room = SPANS * self._span - self.count
            part = batch.rows(slice(at, at + room)) if at or room < len(batch) else batch
            self._take(part)
            self._came(len(part))
            at += len(part)

    def pass_over(self, n: int) -> None:
        """Count so many labelled events without taking them in."""
        while n:
            part = min(n, SPANS * self._span - self.count)
            self._came(part)
            n -= part

    def withdraw(self, first: int, n: int) -> None:
        """Let go of what is kept of ``n`` events from this place in the stream on."""
        for pool in (self._replay, self._held):
            kept = pool.kept()
            if kept is not None:
                pool.erase(np.flatnonzero((kept.places >= first) & (kept.places < first + n)))
        recent = self.recent
        if recent is not None:
            inside = (recent.places >= first) & (recent.places < first + n)
            self._recent = deque([recent.rows(np.flatnonzero(~inside))] if not inside.all() else [])

    def amend(self, amendments: Amendments) -> int:
        """Give kept events the labels that they have by what was said of them later, and let go of those that have
        none, or one that there is no room for; returns how many that changed. What was let go before stays so."""
        changed = 0
        for pool in (self._replay, self._held):
            kept = pool.kept()
            if kept is None:
                continue
            places, told, gone = self._other_labels(kept.batch, amendments)
            if len(places):
                pool.relabel(places, told, self._strata(replace(kept.batch.rows(places), labels=labels_of(told))))
            if len(gone):
                pool.erase(gone)
            changed += len(places) + len(gone)
        recent = self.recent
        if recent is not None:
            places, told, gone = self._other_labels(recent.batch, amendments)
            recent = relabelled(recent, places, told)
            left = recent.rows(np.setdiff1d(np.arange(len(recent)), gone))
            self._recent = deque([left] if len(left) else [])
        self._first = [amended for batch in self._first if len(amended := amendments.applied(batch))]
        return changed

    def _other_labels(
        self, batch: Batch, amendments: Amendments
    ) -> tuple[NDArray[np.intp], list[Any], NDArray[np.intp]]:
        """Places of events whose label is another one, those labels, and the places of events that must go."""
        now = told_by(batch)
        told: dict[int, Any] = {}
        gone: list[int] = []
        names = dict.fromkeys(self._classes)
        for place in amendments.places(batch):
            label = amendments.label(batch, place)
            fresh = dict.fromkeys(name for name in _names_in(label) if name not in names)
            if label is None or len(names) + len(fresh) > max(self._classes_max, len(names)):
                gone.append(place)
            elif label != now[place]:
                told[place] = label
                names |= fresh
        return np.array(list(told), np.intp), list(told.values()), np.array(gone, np.intp)

    def _came(self, n: int) -> None:
        """So many events came; spans double at a count of events, not at the end of some batch."""
        self.count += n
        if self.count == SPANS * self._span:
            self._replay.settle(self._span, self._columns)
            self._held.settle(self._span, self._columns)
            self._span *= 2

    def trained(self, base: Any) -> None:
        """A base has learned these events: its answers are noted where there are none yet, and the recent events are
        the past from now on. ``base`` is what `penstock.learn.slow.base.OnnxBase` is."""
        self._recent.clear()
        columns = [self._classes.index(name) for name in base.classes if name in self._classes]
        known = [place for place, name in enumerate(base.classes) if name in self._classes]
        kept = self.replay
        if kept is None:
            return
        logits = kept.logits.copy()
        fresh = np.flatnonzero(np.isnan(logits).all(axis=1))
        if len(fresh):
            outputs = base.run(kept.batch.rows(fresh))[1].astype(np.float32)
            if self._is_regression:
                manifest = base.artifact.manifest
                logits[fresh] = outputs * np.float32(manifest.unit) + np.float32(manifest.centre)
            else:
                logits[np.ix_(fresh, np.array(columns, np.intp))] = outputs[:, known]
        self._replay.note(logits)

    def erase(self, ids: Collection[str]) -> int:
        """Let go of the events with these ids, wherever they are kept; how many there were."""
        gone = 0
        for pool in (self._replay, self._held):
            kept = pool.kept()
            places = _places_of(kept, ids)
            if len(places):
                pool.erase(places)
                gone += len(places)
        recent = self.recent
        places = _places_of(recent, ids)
        if recent is not None and len(places):
            self._recent = deque([recent.rows(np.setdiff1d(np.arange(len(recent)), places))])
        for number, batch in enumerate(self._first):
            keep = [i for i, name in enumerate(batch.ids or ()) if name not in ids]
            if batch.ids is not None and len(keep) < len(batch):
                gone += len(batch) - len(keep)
                self._first[number] = batch.rows(np.array(keep, np.intp))
        return gone

    def save(self) -> State:
        """A copy of everything."""
        self._replay.settle(self._span, self._columns)
        self._held.settle(self._span, self._columns)
        values: dict[str, Any] = {
            "format": FORMAT,
            "count": self.count,
            "span": self._span,
            "classes": [str(name) for name in self._classes],
            "edges": None if self._edges is None else self._edges.tolist(),
        }
        if self._is_set:
            values["came_of"] = list(self._came_of)
        arrays = self._replay.save("replay") | self._held.save("held")
        recent = self.recent
        if recent is not None:
            arrays |= packed("recent", recent)
        if self._first:
            first = concatenate(self._first)
            arrays |= packed("first", Kept(first, np.arange(len(first)), np.empty((len(first), 0), np.float32)))
        return State(values, arrays)

    def load(self, state: State) -> None:
        """Become what was saved. Raises CheckpointDamaged."""
        values = state.values
        if values.get("format") != FORMAT:
            raise CheckpointDamaged(folder="given", reason="the events kept for replay are of another format")
        self.count, self._span = values["count"], values["span"]
        self._classes = [ClassName(name) for name in values["classes"]]
        self._edges = None if values["edges"] is None else np.array(values["edges"])
        self._came_of = list(values.get("came_of", ()))
        self._replay.load("replay", state.arrays)
        self._held.load("held", state.arrays)
        self._recent = deque([unpacked("recent", state.arrays)] if "recent.places" in state.arrays else [])
        self._first = [unpacked("first", state.arrays).batch] if "first.places" in state.arrays else []

    def _takeable(self, batch: Batch) -> Batch:
        if not isinstance(batch.labels, list):
            return batch
        if self._is_set:
            room = self._classes_max - len(self._classes)
            kept = places_of_sets(cast("list[ClassSet]", batch.labels), self._classes, room)
            return batch if kept is None else batch.rows(kept)
        known = dict.fromkeys(self._classes)
        places = []
        for place, name in enumerate(cast("list[ClassName]", batch.labels)):
            if name in known or len(known) < self._classes_max:
                known[name] = None
                places.append(place)
        return batch if len(places) == len(batch) else batch.rows(np.array(places, np.intp))

    def _take(self, batch: Batch) -> None:
        n = len(batch)
        places = np.arange(self.count, self.count + n, dtype=np.int64)
        keys = hashed(self._seed, places)
        strata = self._strata(batch)
        events = Kept(batch, places, np.full((n, self._columns), np.nan, np.float32))
        is_held = keys % np.uint64(HELD_OUT) == 0
        held, trained = np.flatnonzero(is_held), np.flatnonzero(~is_held)
        self._held.add(events.rows(held), strata[held], keys[held], self._span)
        learned = events.rows(trained)
        self._replay.add(learned, strata[trained], keys[trained], self._span)
        if len(learned):
            self._recent.append(learned)
            self._trim_recent()

    def _trim_recent(self) -> None:
        surplus = sum(map(len, self._recent)) - self._recent_max
        while surplus > 0:
            oldest = self._recent.popleft()
            if len(oldest) > surplus:
                self._recent.appendleft(oldest.rows(np.arange(surplus, len(oldest))))
            surplus -= len(oldest)

    def _strata(self, batch: Batch) -> NDArray[np.int64]:
        """(n,) the class of each event, the rarest so far of several (-1 for none), or the quantile of its label."""
        if isinstance(batch.labels, list):
            known = {name: number for number, name in enumerate(self._classes)}
            for name in class_names(batch.labels):
                if name not in known:
                    known[name] = len(known)
                    self._classes.append(name)
            if self._is_set:
                of_all = cast("list[ClassSet]", batch.labels)
                return self._rarest([[known[name] for name in names] for names in of_all])
            of_each = cast("list[ClassName]", batch.labels)
            return np.fromiter((known[name] for name in of_each), np.int64, len(batch))
        assert self._edges is not None
        return np.searchsorted(self._edges, np.asarray(batch.labels), side="right").astype(np.int64)

    def _rarest(self, sets: list[list[int]]) -> NDArray[np.int64]:
        """(n,) of each event the class that the fewest before it had; the first of equals, and -1 of no class."""
        came = self._came_of = self._came_of + [0] * (len(self._classes) - len(self._came_of))
        strata = np.full(len(sets), -1, np.int64)
        for row, places in enumerate(sets):
            if places:
                strata[row] = min(places, key=came.__getitem__)
            for place in places:
                came[place] += 1
        return strata


def as_example(batch: Batch) -> Batch:
    """The labelled events without what is known of answers that were given to them: to a base or to heads on new
    features it says nothing."""
    return Batch(
        kind=Kind.EXAMPLE,
        times=batch.times,
        ids=batch.ids,
        sources=batch.sources,
        numbers=batch.numbers,
        vectors=batch.vectors,
        strings=batch.strings,
        labels=batch.labels,
        versions=None,
        origins=batch.origins,
    )


def hashed(seed: int, places: NDArray[np.int64]) -> Keys:
    """(n,) the keys of these places: the finaliser of SplitMix64 (Steele, Lea and Flood 2014) of seed and place."""
    with np.errstate(over="ignore"):
        mixed = places.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed) * np.uint64(
            0xD1B54A32D192ED03
        )
        mixed += np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        keys: Keys = mixed ^ (mixed >> np.uint64(31))
    return keys


def _names_in(label: Told | None) -> tuple[ClassName, ...]:
    """The classes that a label names."""
    names = (label,) if isinstance(label, str) else label if isinstance(label, tuple) else ()
    return tuple(map(ClassName, names))


def _places_of(kept: Kept | None, ids: Collection[str]) -> NDArray[np.intp]:
    if kept is None or kept.batch.ids is None:
        return np.empty(0, np.intp)
    return np.array([place for place, name in enumerate(kept.batch.ids) if name in ids], np.intp)
