"""The doors of the log: one writer a partition, any number of readers in any process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from penstock.events import Kind, Offset, Partition, Position

Buffers = Sequence[bytes | memoryview]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """A batch to be appended."""

    kind: Kind
    count: int
    """Events in the batch: as many offsets are given out."""
    payload: Buffers
    """Written one after the other."""
    erased: bool = False
    """Whether it stands for events that are there no more, and has no payload."""


class Frame(msgspec.Struct, frozen=True, kw_only=True):
    """A batch as it stands in the log."""

    partition: Partition
    first: Offset
    kind: Kind
    count: int
    time: float
    """Seconds since 1970 at which it was appended; never decreasing within a partition."""
    payload: memoryview
    erased: bool = False
    """Whether its events are there no more; readers pass such a frame over, so that a gap is where it stands."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """Events of each kind in a partition since its beginning, those that retention removed included."""

    examples: int = 0
    predictions: int = 0
    feedback: int = 0


class LogWriter(Protocol):
    """The one writer of a partition. Not safe to share between threads."""

    @property
    def partition(self) -> Partition: ...

    def append(self, entries: Sequence[Entry]) -> list[Offset]:
        """Write the entries and return each one's first offset, when all of them are on disk.

        Raises LogUnavailable, and then nothing was acknowledged; after a failed fsync every later call raises it."""
        ...

    def end(self) -> Offset:
        """The offset that the next event will get."""
        ...

    def close(self) -> None:
        """Give the partition up."""
        ...


class LogReader(Protocol):
    """Reads what is durable, in this process or another than the writer's."""

    def ends(self) -> Position:
        """The end of the durable part of each partition; a new partition appears here by itself."""
        ...

    def counts(self) -> Counts:
        """Durable events of each kind, over all partitions."""
        ...

    def read(self, partition: Partition, start: Offset, stop: Offset) -> Iterator[Frame]:
        """The frames that hold offsets from start up to stop, which must be durable; the first may begin before start.

        Raises LogCorrupt where bytes are not what was written, and OffsetGone for offsets that retention removed."""
        ...

    def wait(self, position: Position, timeout_s: float) -> bool:
        """Sleep until something beyond position is durable (True), somebody calls, or the time is over;
        woken within a millisecond."""
        ...

    def close(self) -> None:
        """Let go of files and of the doorbell."""
        ...
