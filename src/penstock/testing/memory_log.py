"""The log in memory: the same answers as the one on disk, for tests that are not about disks."""

from __future__ import annotations

import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from penstock.errors import FolderInUse, LogUnavailable, OffsetGone
from penstock.eventlog.interface import Counts, Entry, Frame
from penstock.eventlog.segment import add_counts
from penstock.events import Offset, Partition, Position

_FOLDER = "memory"
_BEGINNING = Offset(0)
_ONLY = Partition(0)


@dataclass(slots=True)
class _Part:
    frames: list[Frame] = field(default_factory=list)
    first: Offset = _BEGINNING
    end: Offset = _BEGINNING
    counts: Counts = field(default_factory=Counts)
    time: float = 0.0
    incarnation: int = 0
    has_writer: bool = False

    def between(self, start: Offset, stop: Offset) -> list[Frame]:
        at = max(0, bisect_right(self.frames, start, key=lambda frame: frame.first) - 1)
        return [f for f in self.frames[at:] if f.first < stop and f.first + f.count > start]


class MemoryLog:
    """A service's log; writers and readers of it may live in several threads of this process."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._parts: dict[Partition, _Part] = {}
        self._changed = threading.Condition()

    def writer(self, partition: Partition = _ONLY) -> MemoryLogWriter:
        """Opens or makes a partition. Raises FolderInUse while it has another writer."""
        return MemoryLogWriter(self, partition)

    def reader(self) -> MemoryLogReader:
        return MemoryLogReader(self)


class MemoryLogWriter:
    """The one writer of a partition."""

    tail_cut_bytes = 0

    def __init__(self, log: MemoryLog, partition: Partition) -> None:
        self._log = log
        self._partition = partition
        with log._changed:
            self._part = part = log._parts.setdefault(partition, _Part())
            if part.has_writer:
                raise FolderInUse(folder=_FOLDER, pid="this process")
            part.has_writer = True
            part.incarnation += 1
            self.incarnation = part.incarnation
            log._changed.notify_all()
        self._closed = False

    @property
    def partition(self) -> Partition:
        return self._partition

    def end(self) -> Offset:
        return self._part.end

    def append(self, entries: Sequence[Entry]) -> list[Offset]:
        if self._closed:
            raise LogUnavailable(folder=_FOLDER, reason="it was closed")
        if any(entry.count < 1 for entry in entries):
            raise ValueError("a frame holds at least one event")
        part, offsets = self._part, []
        with self._log._changed:
            part.time = max(part.time, self._log._clock())
            for entry in entries:
                offsets.append(part.end)
                frame = Frame(
                    partition=self._partition,
                    first=part.end,
                    kind=entry.kind,
                    count=entry.count,
                    time=part.time,
                    payload=memoryview(b"".join(entry.payload)),
                )
                part.frames.append(frame)
                part.end = Offset(part.end + entry.count)
            part.counts = add_counts(part.counts, entries)
            self._log._changed.notify_all()
        return offsets

    def recent(self, limit: int) -> Iterator[Frame]:
        part = self._part
        return iter(part.between(Offset(max(part.first, part.end - limit)), part.end))

    def remove_before(self, needed: Offset) -> Offset:
        """Do what retention does, frame by frame, and return the oldest offset that is left."""
        part = self._part
        with self._log._changed:
            part.frames = [frame for frame in part.frames if frame.first + frame.count > needed]
            part.first = part.frames[0].first if part.frames else part.end
        return part.first

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._part.has_writer = False


class MemoryLogReader:
    """Reads all partitions."""

    def __init__(self, log: MemoryLog) -> None:
        self._log = log

    def ends(self) -> Position:
        with self._log._changed:
            return {partition: part.end for partition, part in sorted(self._log._parts.items())}

    def starts(self) -> Position:
        with self._log._changed:
            return {partition: part.first for partition, part in sorted(self._log._parts.items())}

    def counts(self) -> Counts:
        with self._log._changed:
            counts = [part.counts for part in self._log._parts.values()]
        return Counts(
            examples=sum(c.examples for c in counts),
            predictions=sum(c.predictions for c in counts),
            feedback=sum(c.feedback for c in counts),
        )

    def read(self, partition: Partition, start: Offset, stop: Offset) -> Iterator[Frame]:
        with self._log._changed:
            part = self._log._parts.get(partition, _Part())
            if stop > part.end:
                raise ValueError(f"partition {partition} ends at offset {part.end}, before {stop}")
            if start >= stop:
                return iter(())
            if start < part.first:
                raise OffsetGone(partition=partition, first=part.first, offset=start)
            return iter(part.between(start, stop))

    def wait(self, position: Position, timeout_s: float) -> bool:
        with self._log._changed:
            return self._log._changed.wait_for(lambda: self._is_beyond(position), timeout_s)

    def close(self) -> None:
        """Nothing is held."""

    def _is_beyond(self, position: Position) -> bool:
        return any(part.end > position.get(partition, 0) for partition, part in self._log._parts.items())
