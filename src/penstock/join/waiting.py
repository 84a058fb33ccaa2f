"""Predictions that wait for their feedback: found by id, kept as references to the batches that they came in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, islice
from typing import Any

import numpy as np

from penstock.events import Batch, Offset, Partition, concatenate

Fetch = Callable[[Partition, Sequence[Offset]], Batch]
"""Reads predictions of one partition again from the log: the events at these offsets, in this order."""

FETCHED_AT_ONCE = 8192
"""Predictions read again at a time, so that one that still waits keeps at most so many in memory."""


@dataclass(slots=True, eq=False)
class _Group:
    """Predictions that were taken together; some of them still wait."""

    number: int
    partition: Partition
    since: float
    offsets: range | list[int]
    """Of each row of the batch, ascending."""
    batch: Batch
    left: int
    """How many still wait."""
    start: int = 0
    """No row before this one waits."""
    rows: dict[str, int] = field(default_factory=dict)
    """Row of each id; made when the first feedback arrives, because most groups of a quiet service expire untouched."""

    def ids(self) -> list[str]:
        return self.batch.ids  # type: ignore[return-value]

    def row(self, key: str) -> int:
        if not self.rows:
            # Where an id stands twice its last prediction is the one that waits; a dict keeps the last.
            self.rows = dict(zip(self.ids(), range(len(self.batch)), strict=True))
        return self.rows[key]


@dataclass(frozen=True, slots=True)
class Stopped:
    """Predictions of one batch that stopped waiting without an answer, in its order."""

    ids: list[str]
    partition: Partition
    offsets: list[int]
    since: float
    """When they were taken, in seconds since 1970."""
    whole: Batch
    rows: list[int]

    def batch(self) -> Batch:
        """The predictions themselves."""
        return self.whole if len(self.rows) == len(self.whole) else self.whole.rows(np.array(self.rows, np.intp))


@dataclass(frozen=True, slots=True)
class Found:
    """A prediction that feedback came to."""

    group: _Group
    row: int
    since: float
    """When it was taken, in seconds since 1970."""

    def stopped(self, key: str) -> Stopped:
        """The same where it was no answer that it got, but the word that none will come."""
        group = self.group
        return Stopped([key], group.partition, [group.offsets[self.row]], self.since, group.batch, [self.row])


class WaitingPredictions:
    """Predictions by id, the oldest first, at most ``waiting_max`` of them.

    A row costs one dictionary entry. A batch stays in memory while a row of it waits; once fewer than a quarter of its
    rows do, these are copied out, so that memory is at most four times that of the rows that wait."""

    def __init__(self, waiting_max: int) -> None:
        self._waiting_max = waiting_max
        self._group_of: dict[str, _Group] = {}
        # Ordered by age, and, unlike a plain dict, quick to find the first of after thousands of removals at the front.
        self._groups: OrderedDict[int, _Group] = OrderedDict()
        self._next_number = 0

    def __len__(self) -> int:
        return len(self._group_of)

    def add(self, batch: Batch, partition: Partition, offsets: range | list[int], since: float) -> int:
        """Let these predictions wait. A later one with the id of one that waits takes its place; returns how many
        places were taken."""
        ids: list[str] = batch.ids  # type: ignore[assignment]
        group = _Group(self._next_number, partition, since, offsets, batch, 0)
        self._next_number += 1
        self._groups[group.number] = group
        fresh = dict.fromkeys(ids, group)
        replaced = len(ids) - len(fresh)
        group.left = len(fresh)
        if not self._group_of.keys().isdisjoint(fresh):
            for key in fresh:
                older = self._group_of.pop(key, None)
                if older is not None:
                    replaced += 1
                    self._lose_one(older)
        self._group_of.update(fresh)
        if not group.left:
            del self._groups[group.number]
        return replaced

    def shed(self) -> list[Stopped]:
        """Beyond ``waiting_max`` the oldest stop waiting."""
        stopped: list[Stopped] = []
        while len(self._group_of) > self._waiting_max:
            oldest = next(iter(self._groups.values()))
            stopped.append(self._drop(oldest, len(self._group_of) - self._waiting_max))
        return stopped

    def pop(self, key: str) -> Found | None:
        """The prediction with this id, which stops waiting; None where none waits. Its row is valid until compacted."""
        group = self._group_of.pop(key, None)
        if group is None:
            return None
        found = Found(group, group.row(key), group.since)
        group.left -= 1
        return found

    def settle(self, groups: Sequence[_Group]) -> None:
        """Let go of what answered predictions held in memory, once their rows have been copied out."""
        for group in groups:
            if not group.left:
                self._groups.pop(group.number, None)
            elif group.left * 4 < len(group.batch):
                self._compact(group)

    def expire(self, before: float, at_most: int | None = None) -> list[Stopped]:
        """Those taken before this time stop waiting, the oldest first; with ``at_most`` no more of them than that."""
        stopped: list[Stopped] = []
        room = len(self._group_of) if at_most is None else at_most
        while self._groups and room:
            group = next(iter(self._groups.values()))
            if group.since >= before:
                break
            stopped.append(self._drop(group, room))
            room -= len(stopped[-1].ids)
        return stopped

    def needed(self) -> dict[Partition, Offset]:
        """The oldest offset of a waiting prediction, for each partition that has one."""
        oldest: dict[Partition, Offset] = {}
        for group in self._groups.values():
            row = next(self._rows(group))
            offset = Offset(group.offsets[row])
            # A partition's groups were taken in the order of the log, but a service may be fed out of order.
            oldest[group.partition] = min(offset, oldest.get(group.partition, offset))
        return oldest

    def save(self) -> dict[str, Any]:
        """Positions of what waits, oldest first, as columns: consecutive offsets are one ``[first, beyond]`` pair."""
        partitions, since, pairs, spans = [], [], [], []
        for group in self._groups.values():
            offsets = [group.offsets[row] for row in self._rows(group)]
            cuts = [i for i in range(1, len(offsets)) if offsets[i] != offsets[i - 1] + 1]
            for low, high in zip([0, *cuts], [*cuts, len(offsets)], strict=True):
                spans += [offsets[low], offsets[high - 1] + 1]
            partitions.append(int(group.partition))
            since.append(group.since)
            pairs.append(len(cuts) + 1)
        return {"partitions": partitions, "since": since, "pairs": pairs, "spans": spans}

    def load(self, state: dict[str, Any], fetch: Fetch) -> None:
        """Read again what waited when this was saved."""
        self._group_of, self._groups, self._next_number = {}, OrderedDict(), 0
        spans = iter(state["spans"])
        saved: list[tuple[Partition, float, list[int]]] = []
        for partition, since, pairs in zip(state["partitions"], state["since"], state["pairs"], strict=True):
            offsets: list[int] = []
            for _ in range(pairs):
                offsets.extend(range(next(spans), next(spans)))
            saved.append((Partition(partition), since, offsets))
        for partition, run in groupby(saved, key=lambda entry: entry[0]):
            for chunk in _chunks(list(run)):
                batch = fetch(partition, [Offset(o) for _, _, offsets in chunk for o in offsets])
                at = 0
                for _, since, offsets in chunk:
                    self.add(batch.rows(slice(at, at + len(offsets))), partition, offsets, since)
                    at += len(offsets)

    def _rows(self, group: _Group) -> Iterator[int]:
        """Rows of a group that still wait."""
        ids, group_of = group.ids(), self._group_of
        if group.left == len(ids):
            return iter(range(len(ids)))
        if len(set(ids)) < len(ids):
            return (r for r in range(len(ids)) if group_of.get(ids[r]) is group and group.row(ids[r]) == r)
        return (r for r in range(group.start, len(ids)) if group_of.get(ids[r]) is group)

    def _drop(self, group: _Group, most: int) -> Stopped:
        """The group's first predictions stop waiting, at most so many."""
        rows = list(islice(self._rows(group), most))
        stopped = Stopped(
            [group.ids()[row] for row in rows],
            group.partition,
            [group.offsets[row] for row in rows],
            group.since,
            group.batch,
            rows,
        )
        for key in stopped.ids:
            del self._group_of[key]
        group.left -= len(rows)
        if group.left:
            group.start = rows[-1] + 1
        self.settle([group])
        return stopped

    def _lose_one(self, group: _Group) -> None:
        group.left -= 1
        self.settle([group])

    def _compact(self, group: _Group) -> None:
        rows = list(self._rows(group))
        group.offsets = [group.offsets[row] for row in rows]
        group.batch = group.batch.rows(np.array(rows, np.intp))
        group.start, group.rows = 0, {}


def _chunks(entries: list[tuple[Partition, float, list[int]]]) -> Iterator[list[tuple[Partition, float, list[int]]]]:
    chunk: list[tuple[Partition, float, list[int]]] = []
    size = 0
    for entry in entries:
        if chunk and size + len(entry[2]) > FETCHED_AT_ONCE:
            yield chunk
            chunk, size = [], 0
        chunk.append(entry)
        size += len(entry[2])
    if chunk:
        yield chunk


def rows_of(found: Sequence[Found]) -> Batch:
    """The predictions found, in this order, as one batch of copies."""
    places: dict[int, list[int]] = {}
    for place, one in enumerate(found):
        places.setdefault(one.group.number, []).append(place)
    parts, order = [], []
    for group_places in places.values():
        group = found[group_places[0]].group
        parts.append(group.batch.rows(np.array([found[p].row for p in group_places], np.intp)))
        order += group_places
    whole = concatenate(parts)
    if order == sorted(order):
        return whole
    places_back = np.empty(len(order), np.intp)
    places_back[order] = np.arange(len(order))
    return whole.rows(places_back)
