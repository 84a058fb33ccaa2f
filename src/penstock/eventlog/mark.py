"""The mark of a partition: how much of it is durable, where every process can see it without a system call.

The file is memory-mapped by the writer and by every reader. It has two slots of one disk sector each, written in turn,
each with a sequence number and a checksum: a reader that catches one half written takes the other, which is the mark
before. The file is not made durable with every append, so after a power failure it may be behind the segments (never
ahead of them); the writer finds the rest when it opens the partition.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from pathlib import Path

import msgspec

from penstock.errors import LogCorrupt
from penstock.eventlog.interface import Counts
from penstock.events import Offset

FILE_NAME = "mark"

_SLOT = struct.Struct("<QQQQQQQQd")
_CRC = struct.Struct("<I")
_SLOT_BYTES = _SLOT.size + _CRC.size
_SLOTS_AT = (0, 512)
_FILE_BYTES = 1024
_TRIES = 1000
"""How often a reader looks again when it caught both slots half written: a look and a write take microseconds each."""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """Everything before ``end`` is durable, in segments up to the one that begins with ``segment``."""

    segment: Offset
    """The base of the last segment."""
    byte: int
    """Where the durable part of the last segment ends."""
    end: Offset
    first: Offset
    """The oldest offset that retention has left."""
    counts: Counts
    time: float
    """Of the last append, seconds since 1970."""


class MarkFile:
    """The memory-mapped file; only the partition's writer may move the mark."""

    def __init__(self, folder: Path, *, writable: bool = False) -> None:
        """Raises FileNotFoundError for a reader where no writer has made one yet."""
        flags = os.O_RDWR | os.O_CREAT if writable else os.O_RDONLY
        fd = os.open(folder / FILE_NAME, flags, 0o644)
        try:
            missing = _FILE_BYTES - os.fstat(fd).st_size
            if writable and missing > 0:
                # Written, not just made longer: a hole gets its block when the mark first moves, and where the disk is
                # full that kills the process.
                os.pwrite(fd, bytes(missing), _FILE_BYTES - missing)
            if os.fstat(fd).st_size < _FILE_BYTES:
                raise FileNotFoundError(f"{folder / FILE_NAME} is being made")
            access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
            self._map = mmap.mmap(fd, _FILE_BYTES, access=access)
        finally:
            os.close(fd)
        self._path = folder / FILE_NAME
        self._seen: tuple[bytes, bytes] = (b"", b"")
        self._sequence = 0
        self._mark: Mark | None = None

    def read(self) -> Mark | None:
        """The newest mark, never an older one than the call before returned; None where none was ever written whole."""
        for _ in range(_TRIES):
            slots = (self._map[0:_SLOT_BYTES], self._map[512 : 512 + _SLOT_BYTES])
            if slots == self._seen:
                break
            whole = [slot for slot in slots if _CRC.unpack_from(slot, _SLOT.size)[0] == zlib.crc32(slot[: _SLOT.size])]
            if whole:
                values = max(_SLOT.unpack_from(slot) for slot in whole)
                if values[0] > self._sequence:
                    self._sequence = values[0]
                    self._mark = _mark_of(values)
                self._seen = slots
                break
            if not any(slots[0]) and not any(slots[1]):
                break
        return self._mark

    def move(self, mark: Mark) -> None:
        """Show this mark to every reader from now on."""
        self._sequence += 1
        counts = mark.counts
        packed = _SLOT.pack(
            self._sequence,
            mark.segment,
            mark.byte,
            mark.end,
            mark.first,
            counts.examples,
            counts.predictions,
            counts.feedback,
            mark.time,
        )
        at = _SLOTS_AT[self._sequence % 2]
        self._map[at : at + _SLOT_BYTES] = packed + _CRC.pack(zlib.crc32(packed))

    def flush(self) -> None:
        """Make the mark durable."""
        self._map.flush()

    def close(self) -> None:
        self._map.close()

    def contradicts(self, reason: str) -> LogCorrupt:
        """The error for segments that lack what this mark says was durable."""
        return LogCorrupt(file=str(self._path), byte=_SLOTS_AT[self._sequence % 2], reason=reason)


def _mark_of(values: tuple[int, int, int, int, int, int, int, int, float]) -> Mark:
    _, segment, byte, end, first, examples, predictions, feedback, time = values
    return Mark(
        segment=Offset(segment),
        byte=byte,
        end=Offset(end),
        first=Offset(first),
        counts=Counts(examples=examples, predictions=predictions, feedback=feedback),
        time=time,
    )
