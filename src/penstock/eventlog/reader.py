"""Reading a log's durable part, in any process: one partition, or all of them with a doorbell."""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

from penstock.errors import LogCorrupt, OffsetGone
from penstock.eventlog.doorbell import Doorbell, Roster
from penstock.eventlog.interface import Counts, Frame
from penstock.eventlog.mark import Mark, MarkFile
from penstock.eventlog.segment import SEGMENT_HEADER_BYTES, SegmentFile, segment_bases, segment_path
from penstock.events import Offset, Partition, Position

_INDEX_SPACING_BYTES = 256 * 1024
"""Distance of the places that the index remembers: at most a millisecond of stepping over small frames between two."""
_LISTEN_MAX_S = 1.0
"""How long to sleep without looking: a writer killed between moving its mark and ringing rings nobody."""


class PartitionReader:
    """Reads one partition. Reading on from where the last read stopped costs no search. Not to be shared by threads."""

    def __init__(self, folder: Path, partition: Partition) -> None:
        """Raises FileNotFoundError where no writer has opened the partition yet."""
        self._folder = folder
        self._partition = partition
        self._marks = MarkFile(folder)
        self._bases: list[Offset] = []
        self._file: SegmentFile | None = None
        # Where the frame after the last one read begins, and that last frame itself: a read may end inside it.
        self._next_byte = 0
        self._next_first = Offset(-1)
        self._last: Frame | None = None
        # For each segment, places of frames in it, found while passing: their offsets, and their bytes.
        self._index: dict[Offset, tuple[list[Offset], list[int]]] = {}

    def mark(self) -> Mark | None:
        """How much is durable, or None while the partition's writer is still opening it for the first time."""
        return self._marks.read()

    def read(self, start: Offset, stop: Offset) -> Iterator[Frame]:
        """As in `LogReader.read`. Raises ValueError where stop is not durable yet."""
        mark = self._marks.read()
        end = Offset(0) if mark is None else mark.end
        if stop > end:
            raise ValueError(f"partition {self._partition} is durable up to offset {end}, and not up to {stop}")
        if mark is None or start >= stop:
            return iter(())
        if start < mark.first:
            raise OffsetGone(partition=self._partition, first=mark.first, offset=start)
        return self._frames(start, stop, mark)

    def close(self) -> None:
        self._file = None
        self._last = None
        self._marks.close()

    def _frames(self, start: Offset, stop: Offset, mark: Mark) -> Iterator[Frame]:
        last = self._last
        if last is not None and last.first <= start < last.first + last.count:
            if not last.erased:
                yield last
            start = Offset(last.first + last.count)
            if start >= stop:
                return
        file, byte, first = self._locate(start, mark)
        limit = _limit(file, mark)
        while first < stop:
            if byte >= limit:
                file = self._file = self._segment_after(file, byte, first, mark)
                byte, limit = SEGMENT_HEADER_BYTES, _limit(file, mark)
                continue
            frame, after = file.frame_at(byte, limit, first)
            self._remember(file.base, first, byte)
            byte, first = after, Offset(first + frame.count)
            self._file, self._next_byte, self._next_first, self._last = file, byte, first, frame
            if not frame.erased:
                yield frame

    def _locate(self, offset: Offset, mark: Mark) -> tuple[SegmentFile, int, Offset]:
        """The segment, byte and first offset of the frame that holds this offset."""
        if self._file is not None and offset == self._next_first:
            return self._file, self._next_byte, offset
        if not self._bases or self._bases[-1] < mark.segment:
            self._list_segments()
        file = self._open(self._base_for(offset), offset)
        offsets, places = self._index.get(file.base, ([], []))
        at = bisect_right(offsets, offset) - 1
        first, byte = (offsets[at], places[at]) if at >= 0 else (file.base, SEGMENT_HEADER_BYTES)
        limit = _limit(file, mark)
        while byte < limit:
            size, count = file.frame_extent(byte, limit, first)
            if offset < first + count:
                break
            self._remember(file.base, first, byte)
            byte, first = byte + size, Offset(first + count)
        return file, byte, first

    def _base_for(self, offset: Offset) -> Offset:
        at = bisect_right(self._bases, offset) - 1
        if at < 0:
            first = self._bases[0] if self._bases else Offset(0)
            raise OffsetGone(partition=self._partition, first=first, offset=offset)
        return self._bases[at]

    def _segment_after(self, file: SegmentFile, byte: int, expected: Offset, mark: Mark) -> SegmentFile:
        """The segment that goes on where this one ends."""
        if self._bases[-1] < mark.segment:
            self._list_segments()
        at = bisect_right(self._bases, file.base)
        if at == len(self._bases) or self._bases[at] != expected:
            self._refuse_gone(expected)
            found = f"offset {self._bases[at]}" if at < len(self._bases) else "none"
            reason = f"it ends at offset {expected}, and the next segment begins with {found}"
            raise file.damaged(byte, reason, expected)
        return self._open(expected, expected)

    def _open(self, base: Offset, offset: Offset) -> SegmentFile:
        if self._file is not None and self._file.base == base:
            return self._file
        try:
            return SegmentFile(self._folder, base)
        except FileNotFoundError:
            # Retention removes the oldest segments, and moves the mark before it does.
            self._list_segments()
            self._refuse_gone(offset)
            path = segment_path(self._folder, base)
            raise LogCorrupt(
                file=str(path), byte=0, reason="the segment is missing", partition=self._partition, offset=offset
            ) from None

    def _refuse_gone(self, offset: Offset) -> None:
        mark = self._marks.read()
        if mark is not None and offset < mark.first:
            raise OffsetGone(partition=self._partition, first=mark.first, offset=offset)

    def _list_segments(self) -> None:
        self._bases = segment_bases(self._folder)
        for base in self._index.keys() - set(self._bases):
            del self._index[base]

    def _remember(self, base: Offset, first: Offset, byte: int) -> None:
        offsets, places = self._index.setdefault(base, ([], []))
        if not places or byte >= places[-1] + _INDEX_SPACING_BYTES:
            offsets.append(first)
            places.append(byte)


def _limit(file: SegmentFile, mark: Mark) -> int:
    """Where the durable part of the segment ends: a segment is durable whole when there is another after it."""
    return mark.byte if file.base == mark.segment else file.size()


class LocalLogReader:
    """All partitions in a log's folder. Not safe to share between threads."""

    def __init__(self, folder: Path | str) -> None:
        self._folder = Path(folder)
        self._roster = Roster(self._folder)
        self._listed = b""
        self._partitions: dict[Partition, PartitionReader] = {}
        self._doorbell: Doorbell | None = None

    def ends(self) -> Position:
        """The end of the durable part of each partition; a new partition appears here by itself."""
        return {partition: mark.end for partition, mark in self._marks()}

    def starts(self) -> Position:
        """The oldest offset of each partition that retention has left."""
        return {partition: mark.first for partition, mark in self._marks()}

    def counts(self) -> Counts:
        """Durable events of each kind, over all partitions."""
        counts = [mark.counts for _, mark in self._marks()]
        return Counts(
            examples=sum(c.examples for c in counts),
            predictions=sum(c.predictions for c in counts),
            feedback=sum(c.feedback for c in counts),
        )

    def read(self, partition: Partition, start: Offset, stop: Offset) -> Iterator[Frame]:
        """The frames that hold offsets from start up to stop; the first may begin before start.

        Raises ValueError where stop is not durable yet, OffsetGone for what retention removed, and LogCorrupt, at the
        frame in question, where bytes are not what was written."""
        self._look_for_partitions()
        reader = self._partitions.get(partition)
        if reader is None:
            if stop > 0:
                raise ValueError(f"partition {partition} has no durable events yet, so none up to offset {stop}")
            return iter(())
        return reader.read(start, stop)

    def wait(self, position: Position, timeout_s: float) -> bool:
        """Sleep until something beyond position is durable (True), somebody calls, or the time is over."""
        if self._is_beyond(position):
            return True
        if self._doorbell is None:
            self._doorbell = Doorbell(self._folder, self._roster)
        until = time.monotonic() + timeout_s
        while True:
            is_called = self._doorbell.drain()
            if self._is_beyond(position):
                return True
            left = until - time.monotonic()
            if left <= 0 or is_called:
                return False
            self._doorbell.listen(min(left, _LISTEN_MAX_S))

    def close(self) -> None:
        """Let go of files and of the doorbell."""
        if self._doorbell is not None:
            self._doorbell.close()
            self._doorbell = None
        while self._partitions:
            self._partitions.popitem()[1].close()
        self._roster.close()

    def _is_beyond(self, position: Position) -> bool:
        return any(mark.end > position.get(partition, 0) for partition, mark in self._marks())

    def _marks(self) -> list[tuple[Partition, Mark]]:
        self._look_for_partitions()
        marks = ((partition, reader.mark()) for partition, reader in self._partitions.items())
        return [(partition, mark) for partition, mark in marks if mark is not None]

    def _look_for_partitions(self) -> None:
        state = self._roster.state()
        if state == self._listed:
            return
        self._listed = state
        with os.scandir(self._folder) as entries:
            numbers = sorted(int(entry.name) for entry in entries if entry.name.isdigit() and entry.is_dir())
        for partition in map(Partition, numbers):
            if partition not in self._partitions:
                try:
                    self._partitions[partition] = PartitionReader(self._folder / str(partition), partition)
                except FileNotFoundError:
                    continue  # Its writer is still making it, and will announce it.
