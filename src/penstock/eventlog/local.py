"""The log on this machine's disk: its writer, and beside it, from `reader`, its reader."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from penstock.errors import LogUnavailable
from penstock.eventlog.doorbell import Doorbells, Roster
from penstock.eventlog.folders import lock_folder, sync_folder
from penstock.eventlog.interface import Entry, Frame
from penstock.eventlog.mark import Mark, MarkFile
from penstock.eventlog.reader import LocalLogReader, PartitionReader
from penstock.eventlog.recovery import Segment, create_segment, next_incarnation, recover
from penstock.eventlog.segment import (
    SEGMENT_HEADER_BYTES,
    SegmentHeader,
    add_counts,
    frame_buffers,
    segment_path,
)
from penstock.events import Offset, Partition

__all__ = ["LocalLogReader", "LocalLogWriter", "Removed"]

_BUFFERS_MAX = 1024
"""IOV_MAX on Linux: more go in several calls."""
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a write after which the next may succeed, when somebody has made room."""


class Removed(msgspec.Struct, frozen=True, kw_only=True):
    """What retention took away."""

    segments: int
    bytes: int
    first: Offset
    """The oldest offset that is left."""


class LocalLogWriter:
    """The one writer of a partition: frames go to segments and are acknowledged when they are on disk.

    Appending and retaining may happen in two threads; each waits for the other."""

    def __init__(
        self,
        folder: Path | str,
        partition: Partition,
        *,
        segment_bytes: int = 64 * 1024 * 1024,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Opens or makes the partition in a log's folder. Raises FolderInUse, LogCorrupt or LogUnavailable."""
        log = Path(folder)
        self._folder = log / str(partition)
        self._partition = partition
        self._segment_bytes = segment_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._fault = ""
        self._fd = -1
        try:
            _make_folder(self._folder)
            self._lock_fd = lock_folder(self._folder)
            try:
                self.incarnation = next_incarnation(self._folder)
                """Counts the openings of this partition; durable before it is seen, so it never comes twice."""
                self._marks = MarkFile(self._folder, writable=True)
                recovered = recover(self._folder, partition, self._marks)
                self._mark = recovered.mark
                self._segments = recovered.segments
                self.tail_cut_bytes = recovered.tail_cut_bytes
                """Bytes of a frame that was being written when the last writer stopped, cut at this opening."""
                self._roster = Roster(log)
                self._fd = os.open(segment_path(self._folder, self._mark.segment), os.O_RDWR)
            except BaseException:
                os.close(self._lock_fd)
                raise
        except OSError as error:
            raise LogUnavailable(folder=str(self._folder), reason=error.strerror or str(error)) from error
        self._roster.announce()
        self._doorbells = Doorbells(log, self._roster)
        self._doorbells.ring()

    @property
    def partition(self) -> Partition:
        return self._partition

    def end(self) -> Offset:
        """The offset that the next event will get."""
        return self._mark.end

    def append(self, entries: Sequence[Entry]) -> list[Offset]:
        """Write the entries and return each one's first offset, when all of them are on disk.

        Raises LogUnavailable, and then nothing was acknowledged. After a full disk later calls may succeed; after any
        other failure, of an fsync above all, the state of the file is unknown and every later call raises it too."""
        with self._lock:
            if self._fault:
                raise LogUnavailable(folder=str(self._folder), reason=self._fault, lasting=True)
            if not entries:
                return []
            mark = self._mark
            now = max(self._clock(), mark.time)
            buffers: list[bytes | memoryview] = []
            offsets = []
            at = mark.end
            for entry in entries:
                buffers += frame_buffers(entry, at, now, at - mark.end)
                offsets.append(at)
                at = Offset(at + entry.count)
            size = sum(map(len, buffers))
            self._fault = "an append was interrupted"
            if mark.byte + size > self._segment_bytes and mark.end > mark.segment:
                mark = self._begin_segment(mark)
            self._write(buffers, mark.byte)
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                raise self._failed("fsync failed", error) from error
            self._mark = Mark(
                segment=mark.segment,
                byte=mark.byte + size,
                end=at,
                first=mark.first,
                counts=add_counts(mark.counts, entries),
                time=now,
            )
            self._marks.move(self._mark)
            self._fault = ""
        self._doorbells.ring()
        return offsets

    def recent(self, limit: int) -> Iterator[Frame]:
        """Frames in order, up to the end, that hold at least the last ``limit`` events, or all that are left."""
        mark = self._mark
        reader = PartitionReader(self._folder, self._partition)
        try:
            yield from reader.read(Offset(max(mark.first, mark.end - limit)), mark.end)
        finally:
            reader.close()

    def retain(self, needed: Offset, max_bytes: int, max_age_s: float, now: float) -> Removed:
        """Remove the oldest segments while they hold nothing from ``needed`` on and either the partition is larger than
        ``max_bytes`` or their last event was appended more than ``max_age_s`` before ``now`` (seconds since 1970).

        Whole segments go, never the last one. Readers are told before the files are gone."""
        with self._lock:
            if self._fault:
                raise LogUnavailable(folder=str(self._folder), reason=self._fault)
            total = sum(segment.size for segment in self._segments[:-1]) + self._mark.byte
            size = total
            gone = 0
            for segment, after in zip(self._segments, self._segments[1:], strict=False):
                if after.base > needed or (size <= max_bytes and after.time_before >= now - max_age_s):
                    break
                size -= segment.size
                gone += 1
            first = self._segments[gone].base
            removed, self._segments = self._segments[:gone], self._segments[gone:]
            if removed:
                self._mark = msgspec.structs.replace(self._mark, first=first)
                self._marks.move(self._mark)
        if removed:
            for segment in removed:
                segment_path(self._folder, segment.base).unlink(missing_ok=True)
            sync_folder(self._folder)
        return Removed(segments=len(removed), bytes=total - size, first=first)

    def close(self) -> None:
        """Give the partition up."""
        with self._lock:
            if self._fd < 0:
                return
            self._fault = "it was closed"
            self._doorbells.close()
            self._roster.close()
            self._marks.flush()
            self._marks.close()
            os.close(self._fd)
            self._fd = -1
            os.close(self._lock_fd)

    def _begin_segment(self, mark: Mark) -> Mark:
        """Close the last segment and begin one at the log's end."""
        header = SegmentHeader(
            partition=self._partition, base=mark.end, previous=mark.segment, counts=mark.counts, time=mark.time
        )
        try:
            create_segment(self._folder, header)
            fd = os.open(segment_path(self._folder, mark.end), os.O_RDWR)
        except OSError as error:
            if error.errno in _NO_SPACE and not segment_path(self._folder, mark.end).exists():
                self._fault = ""
                raise LogUnavailable(folder=str(self._folder), reason=error.strerror) from error
            raise self._failed("a new segment cannot be made", error) from error
        os.close(self._fd)
        self._fd = fd
        self._segments[-1].size = mark.byte
        self._segments.append(Segment(base=mark.end, size=SEGMENT_HEADER_BYTES, time_before=mark.time))
        self._mark = msgspec.structs.replace(mark, segment=mark.end, byte=SEGMENT_HEADER_BYTES)
        self._marks.move(self._mark)
        # So that after a power failure there is never more than one segment to look through.
        self._marks.flush()
        return self._mark

    def _write(self, buffers: list[bytes | memoryview], byte: int) -> None:
        """Write them all from this byte on, or nothing that counts."""
        start = byte
        done = 0
        try:
            while done < len(buffers):
                written = os.pwritev(self._fd, buffers[done : done + _BUFFERS_MAX], byte)
                byte += written
                while done < len(buffers) and written >= len(buffers[done]):
                    written -= len(buffers[done])
                    done += 1
                if written:
                    buffers[done] = memoryview(buffers[done])[written:]
        except OSError as error:
            if error.errno not in _NO_SPACE:
                raise self._failed("a write failed", error) from error
            try:
                os.ftruncate(self._fd, start)
                os.fdatasync(self._fd)
            except OSError as second:
                raise self._failed("a part of an append cannot be taken back", second) from second
            self._fault = ""
            raise LogUnavailable(folder=str(self._folder), reason=error.strerror) from error

    def _failed(self, what: str, error: OSError) -> LogUnavailable:
        """The error with which this writer is dead from now on."""
        self._fault = f"{what} ({error.strerror}); nothing is written until it is opened again"
        return LogUnavailable(folder=str(self._folder), reason=self._fault, lasting=True)


def _make_folder(folder: Path) -> None:
    """Make the folder and those above it, durable with their names."""
    if not folder.is_dir():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)
