"""Whose events are to go, where they stand in a log, and what stands there instead.

An event is a subject's if it says so itself, or if it says nothing of whose it is and an event of that subject has its
id: so feedback goes with its prediction, and a prediction with feedback that says whose it is.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.eventlog.interface import Entry, Frame
from penstock.events import Batch, Kind, Offset, Partition, Position, Range, Schema, Strings, decode, encode
from penstock.publish.past.lineage import WholeLog
from penstock.spec import Spec

Looked = Callable[[int, int], None]
"""Told how many events were looked through, and of how many."""

# Of scrypt (RFC 7914): some 50 ms and 16 MB a guess, since the ids of customers are easily counted through.
_SCRYPT_COST, _SCRYPT_BLOCK, _SCRYPT_PARALLEL = 2**14, 8, 1


class Whose(msgspec.Struct, frozen=True, kw_only=True):
    """What names the events that are to go: a subject, or one id."""

    subject: str | None = None
    id: str | None = None

    def hashed(self, salt: bytes) -> str:
        """What is written down instead of it: whoever knows the name can see that it was meant."""
        name = f"subject {self.subject}" if self.subject is not None else f"id {self.id}"
        hashed = hashlib.scrypt(name.encode(), salt=salt, n=_SCRYPT_COST, r=_SCRYPT_BLOCK, p=_SCRYPT_PARALLEL, dklen=32)
        return hashed.hex()


@dataclass(slots=True)
class Found:
    """Where these events stand."""

    offsets: dict[Partition, list[Offset]] = field(default_factory=dict)
    """Ascending."""
    counts: dict[str, int] = field(default_factory=dict)
    """By kind."""
    since: float = float("inf")
    """Seconds since 1970 at which the first of them was appended: nothing before knew of any."""

    def __len__(self) -> int:
        return sum(map(len, self.offsets.values()))

    @property
    def ranges(self) -> list[Range]:
        """The same as runs of offsets."""
        by_partition = sorted(self.offsets.items())
        return [(p, Offset(start), Offset(stop)) for p, offsets in by_partition for start, stop in _runs(offsets)]


def find(reader: WholeLog, spec: Spec, whose: Whose, looked: Looked = lambda *_: None) -> Found:
    """The events in two passes over the log. Raises LogCorrupt."""
    column = Schema.of(spec).strings.index(spec.subject) if spec.subject in spec.features else None
    ids: set[str | None] = set() if whose.id is None else {whose.id}
    if whose.subject is not None:
        for _, batch in _batches(reader, looked):
            subjects = _subjects(batch, column)
            if subjects is not None and batch.ids is not None:
                ids.update(one for one, subject in zip(batch.ids, subjects, strict=True) if subject == whose.subject)
        ids.discard(None)
    found = Found()
    for frame, batch in _batches(reader, looked):
        rows = _rows(batch, _subjects(batch, column), ids, whose)
        if rows:
            found.offsets.setdefault(frame.partition, []).extend(Offset(frame.first + row) for row in rows)
            kind = Kind(frame.kind).name.lower()
            found.counts[kind] = found.counts.get(kind, 0) + len(rows)
            found.since = min(found.since, frame.time)
    return found


def _rows(batch: Batch, subjects: Strings | None, ids: set[str | None], whose: Whose) -> list[int]:
    if subjects is None and batch.ids is None:
        return []
    names = batch.ids or [None] * len(batch)
    if whose.subject is None:
        return [row for row, name in enumerate(names) if name in ids]
    own = subjects or [None] * len(batch)
    told = zip(names, own, strict=True)
    return [
        row for row, (name, subject) in enumerate(told) if subject == whose.subject or (subject is None and name in ids)
    ]


def _subjects(batch: Batch, column: int | None) -> Strings | None:
    """Whose these events are; by the feature where they were sent before the service named it."""
    if column is None or not batch.strings:
        return batch.subjects
    feature = batch.strings[column]
    return [own or told for own, told in zip(batch.subjects or feature, feature, strict=True)]


def _batches(reader: WholeLog, looked: Looked) -> Iterator[tuple[Frame, Batch]]:
    starts: Position = reader.starts()
    ends = reader.ends()
    total, before = sum(end - starts[partition] for partition, end in ends.items()), 0
    for partition, end in sorted(ends.items()):
        for frame in reader.read(partition, starts[partition], end):
            looked(before + frame.first - starts[partition], total)
            yield frame, decode(frame.payload)
        before += end - starts[partition]


class Erasing:
    """What stands in the place of frames once the events that were found are gone (`eventlog.rewriting.Change`).

    With the events go what members had said with predictions that were answered since, and the replies where they are
    kept: versions said it that may have known of them. What was taken before ``clean`` was answered by versions that
    had not."""

    def __init__(self, found: Found, clean: Position) -> None:
        self._found = found
        self._clean = clean

    def __call__(self, frame: Frame) -> Sequence[Entry] | None:
        offsets = self._found.offsets.get(frame.partition, [])
        low, high = (bisect_left(offsets, edge) for edge in (frame.first, frame.first + frame.count))
        clean = max(0, self._clean.get(frame.partition, Offset(0)) - frame.first)
        may_know = frame.kind is Kind.PREDICTION and frame.time >= self._found.since and clean < frame.count
        if low == high and not may_know:
            return None
        batch = decode(frame.payload)
        if may_know and not (batch.said is None and batch.replies is None):
            said, replies = batch.said, batch.replies
            batch = replace(batch, said=None, replies=None)
            if clean and said is not None:
                batch = replace(batch, said=_until(clean, said))
            if clean and replies is not None:
                batch = replace(batch, replies=replace(replies, values=_until(clean, replies.values)))
        elif low == high:
            return None
        return list(_entries(batch, [offset - frame.first for offset in offsets[low:high]]))


def _until(clean: int, numbers: NDArray[np.floating]) -> NDArray[np.floating]:
    """The rows before ``clean``, and NaN from there on."""
    kept = numbers.copy()
    kept[clean:] = np.nan
    return kept


def _entries(batch: Batch, gone: Sequence[int]) -> Iterator[Entry]:
    """The batch in parts, with a frame without events for each run of rows that are gone."""
    at = 0
    for start, stop in [*_runs(gone), (len(batch), len(batch))]:
        if at < start:
            yield Entry(kind=batch.kind, count=start - at, payload=encode(batch.rows(slice(at, start))))
        if start < stop:
            yield Entry(kind=batch.kind, count=stop - start, payload=(), erased=True)
        at = stop


def _runs(ascending: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Numbers that follow one another, as starts and ends."""
    start = 0
    for place in range(1, len(ascending) + 1):
        if place == len(ascending) or ascending[place] != ascending[place - 1] + 1:
            yield ascending[start], ascending[place - 1] + 1
            start = place
