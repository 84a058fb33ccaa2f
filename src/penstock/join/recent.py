"""Ids seen lately and what is known of each: a bounded memory that tells what repeats or corrects from what is new."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from penstock.events import Offset, Partition
from penstock.join.interface import Told

LONGEST_ID = 64
"""Characters of an id that are kept as they are, which bounds the memory of each."""

HOLES_MAX = 1024
"""Places that forgotten ids leave behind, and as many as there are ids, before they are cleared away."""

Remembered = tuple[Told | None, Partition, Offset]
"""The label that an event has now (None where it was taken back), and the event's origin: what had given it its label.
"""


UNKNOWN: Remembered = (None, Partition(-1), Offset(-1))
"""Of an event whose label and origin are not known any more."""


class _Block:
    """Ids in the order in which they were first seen. What is known of them stands in columns, and the origins as runs
    of events that follow one another, so that a batch costs a few calls and no object an event."""

    def __init__(self) -> None:
        self.places: dict[str, int] = {}
        self.labels: list[Told | None] = []
        """By place; an id that was forgotten leaves its own behind."""
        self._starts: list[int] = []
        """Places at which runs begin."""
        self._origins: list[tuple[Partition, Offset]] = []
        """Of each run's first event."""

    def add(self, keys: Iterable[str], labels: Sequence[Told | None], partition: Partition, first: Offset) -> None:
        """New ids of events that stand one behind the other."""
        at = len(self.labels)
        self.places.update(zip(keys, range(at, at + len(labels)), strict=True))
        self.labels += labels
        if self._origins:
            of_run, offset = self._origins[-1]
            if of_run == partition and offset + at - self._starts[-1] == first:
                return
        self._starts.append(at)
        self._origins.append((partition, first))

    def find(self, key: str) -> Remembered | None:
        """What is known of an id."""
        place = self.places.get(key)
        if place is None:
            return None
        run = bisect_right(self._starts, place) - 1
        partition, first = self._origins[run]
        behind = place - self._starts[run] if partition >= 0 else 0
        return self.labels[place], partition, Offset(first + behind)

    def without(self, keys: Sequence[str]) -> _Block:
        """The same without these; another one where most places were left behind."""
        if self.places.keys().isdisjoint(keys):
            return self
        for key in keys:
            self.places.pop(key, None)
        if len(self.labels) <= HOLES_MAX + 2 * len(self.places):
            return self
        whole = _Block()
        for key in self.places:
            label, partition, offset = self.find(key) or UNKNOWN
            whole.add((key,), (label,), partition, offset)
        return whole

    def save(self) -> dict[str, Any]:
        has_holes = len(self.places) < len(self.labels)
        return {
            "ids": list(self.places),
            "places": np.fromiter(self.places.values(), np.int32).tobytes() if has_holes else b"",
            "labels": packed_labels(self.labels),
            "starts": np.array(self._starts, np.int32).tobytes(),
            "partitions": np.array([partition for partition, _ in self._origins], np.int32).tobytes(),
            "offsets": np.array([first for _, first in self._origins], np.int64).tobytes(),
        }

    @classmethod
    def loaded(cls, state: Any) -> _Block:
        block = cls()
        if isinstance(state, list):
            # As it was saved before labels were remembered: the ids alone. What they stand for can only be repeated.
            if state:
                label, partition, offset = UNKNOWN
                block.add(state, [label] * len(state), partition, offset)
            return block
        block.labels = unpacked_labels(state["labels"])
        places = np.frombuffer(state["places"], np.int32).tolist() or range(len(state["ids"]))
        block.places = dict(zip(state["ids"], places, strict=True))
        block._starts = np.frombuffer(state["starts"], np.int32).tolist()
        firsts = [np.frombuffer(state[name], kind).tolist() for name, kind in _ORIGINS]
        block._origins = list(zip(*firsts, strict=True))
        return block


_ORIGINS = (("partitions", np.int32), ("offsets", np.int64))


class RecentLabels:
    """The newest ids, between half of ``kept`` and ``kept`` of them, each remembered exactly.

    Ids are counted in the order in which they are first seen, in blocks of half of ``kept``; the block that is being
    filled and the one before it are remembered. An id longer than 64 characters is remembered by its 128-bit BLAKE2b
    digest: among n such ids two collide with a chance below n^2 / 2^129 (6e-29 for 200,000); shorter ones never do."""

    def __init__(self, kept: int) -> None:
        self._size = max(1, kept // 2)
        self._filling = _Block()
        self._before = _Block()

    def __contains__(self, key: str) -> bool:
        return key in self._filling.places or key in self._before.places

    def find(self, key: str) -> Remembered | None:
        """What is known of it; None where it is not remembered."""
        return self._filling.find(key) or self._before.find(key)

    def put(self, key: str, label: Told | None, partition: Partition, offset: Offset) -> None:
        """Remember an event under an id that is not remembered."""
        self._filling.add((key,), (label,), partition, offset)
        if len(self._filling.places) >= self._size:
            self._before, self._filling = self._filling, _Block()

    def relabel(self, key: str, label: Told | None) -> None:
        """Another label for an id that is remembered, which does not make it younger."""
        block = self._filling if key in self._filling.places else self._before
        block.labels[block.places[key]] = label

    def forget(self, keys: Sequence[str]) -> None:
        """Without these, if they are remembered."""
        self._filling, self._before = self._filling.without(keys), self._before.without(keys)

    def first_seen(
        self, keys: Sequence[str | None], labels: Sequence[Told], partition: Partition, first: Offset
    ) -> list[int] | None:
        """The places of keys that are new, and of missing ones; None where that is all. They are remembered then, as
        events at ``first`` and the offsets behind it."""
        fresh: dict[str, None] = dict.fromkeys(keys)  # type: ignore[arg-type]
        # The usual case, a batch of new ids within the block, takes no step of Python for an event.
        if (
            None not in fresh
            and len(fresh) == len(keys)
            and len(self._filling.places) + len(fresh) < self._size
            and self._filling.places.keys().isdisjoint(fresh)
            and self._before.places.keys().isdisjoint(fresh)
        ):
            self._filling.add(fresh, labels, partition, first)
            return None
        places = []
        for place, key in enumerate(keys):
            if key is None:
                places.append(place)
            elif key not in self:
                self.put(key, labels[place], partition, Offset(first + place))
                places.append(place)
        return None if len(places) == len(keys) else places

    def save(self) -> dict[str, Any]:
        return {"filling": self._filling.save(), "before": self._before.save()}

    def load(self, state: dict[str, Any]) -> None:
        self._filling, self._before = _Block.loaded(state["filling"]), _Block.loaded(state["before"])


def packed_labels(labels: Iterable[Told | None]) -> dict[str, Any]:
    """Labels as plain values: numbers as 64 bits each, names as a list of all and the place of each in it."""
    values = list(labels)
    if any(isinstance(value, float) for value in values):
        return {"numbers": np.array([np.nan if v is None else v for v in values], np.float64).tobytes()}
    names = dict.fromkeys(v for v in values if v is not None)
    numbered: dict[Told | None, int] = {None: -1, **{name: place for place, name in enumerate(names)}}
    return {"names": list(names), "places": np.array([numbered[v] for v in values], np.int32).tobytes()}


def unpacked_labels(state: dict[str, Any]) -> list[Told | None]:
    """What `packed_labels` made."""
    if "numbers" in state:
        return [None if v != v else v for v in np.frombuffer(state["numbers"], np.float64).tolist()]
    names = [*map(told_as, state["names"]), None]
    return [names[place] for place in np.frombuffer(state["places"], np.int32).tolist()]


def told_as(label: Any) -> Told | None:
    """A label as it was before it was saved: a set of classes comes back as a list."""
    return tuple(label) if isinstance(label, list) else label


def remembered_as(ids: Sequence[str | None]) -> Sequence[str | None]:
    """The ids as they are kept: long ones by their digest, behind a mark that no short id has."""
    if max((len(i) for i in ids if i is not None), default=0) <= LONGEST_ID:
        return ids
    return [i if i is None or len(i) <= LONGEST_ID else _digest(i) for i in ids]


def _digest(long: str) -> str:
    # One character longer than the longest id that is kept as it is, so that the two never meet.
    digest = hashlib.blake2b(long.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
    return digest.ljust(LONGEST_ID + 1, "#")
