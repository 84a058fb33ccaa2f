"""Ids seen lately and what is known of each: a bounded memory that tells what repeats or corrects from what is new."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from itertools import repeat
from typing import Any

import numpy as np

from penstock.events import Offset, Partition
from penstock.join.interface import Told

LONGEST_ID = 64
"""Characters of an id that are kept as they are, which bounds the memory of each."""

Remembered = tuple[Told | None, Partition, Offset]
"""The label that an event has now (None where it was taken back), and the event's origin: what had given it its label.
"""


UNKNOWN: Remembered = (None, Partition(-1), Offset(-1))
"""Of an event whose label and origin are not known any more."""


class RecentLabels:
    """The newest ids, between half of ``kept`` and ``kept`` of them, each remembered exactly.

    Ids are counted in the order in which they are first seen, in blocks of half of ``kept``; the block that is being
    filled and the one before it are remembered. An id longer than 64 characters is remembered by its 128-bit BLAKE2b
    digest: among n such ids two collide with a chance below n^2 / 2^129 (6e-29 for 200,000); shorter ones never do."""

    def __init__(self, kept: int) -> None:
        self._block = max(1, kept // 2)
        self._filling: dict[str, Remembered] = {}
        self._before: dict[str, Remembered] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._filling or key in self._before

    def find(self, key: str) -> Remembered | None:
        """What is known of it; None where it is not remembered."""
        return self._filling.get(key) or self._before.get(key)

    def put(self, key: str, label: Told | None, partition: Partition, offset: Offset) -> None:
        """Remember an event under an id that is not remembered."""
        self._filling[key] = (label, partition, offset)
        self._turn()

    def relabel(self, key: str, label: Told | None) -> None:
        """Another label for an id that is remembered, which does not make it younger."""
        block = self._filling if key in self._filling else self._before
        _, partition, offset = block[key]
        block[key] = (label, partition, offset)

    def forget(self, keys: Sequence[str]) -> None:
        """Without these, if they are remembered."""
        for block in (self._filling, self._before):
            if not block.keys().isdisjoint(keys):
                for key in keys:
                    block.pop(key, None)

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
            and len(self._filling) + len(fresh) < self._block
            and self._filling.keys().isdisjoint(fresh)
            and self._before.keys().isdisjoint(fresh)
        ):
            offsets: Any = range(first, first + len(keys))
            self._filling.update(zip(fresh, zip(labels, repeat(partition), offsets, strict=False), strict=True))
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
        return {"filling": _packed(self._filling), "before": _packed(self._before)}

    def load(self, state: dict[str, Any]) -> None:
        self._filling = _unpacked(state["filling"])
        self._before = _unpacked(state["before"])

    def _turn(self) -> None:
        if len(self._filling) >= self._block:
            self._before, self._filling = self._filling, {}


def _packed(block: dict[str, Remembered]) -> dict[str, Any]:
    labels, partitions, offsets = zip(*block.values(), strict=True) if block else ((), (), ())
    return {
        "ids": list(block),
        "labels": packed_labels(labels),
        "partitions": np.array(partitions, np.int32).tobytes(),
        "offsets": np.array(offsets, np.int64).tobytes(),
    }


def _unpacked(state: Any) -> dict[str, Remembered]:
    if isinstance(state, list):
        # As it was saved before labels were remembered: the ids alone. What they stand for can only be repeated.
        return dict.fromkeys(state, UNKNOWN)
    labels = unpacked_labels(state["labels"])
    partitions = np.frombuffer(state["partitions"], np.int32).tolist()
    offsets = np.frombuffer(state["offsets"], np.int64).tolist()
    return dict(zip(state["ids"], zip(labels, partitions, offsets, strict=True), strict=True))


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
