"""The bytes of a segment: a header, then frames one after the other; how they are made, found again and checked.

A segment begins with (little endian)::

    8 bytes  magic            "PENSTLOG"
    u32      format           1; 2 where frames were erased
    u32      partition
    u64      base             offset of its first event; also the file's name
    u64      previous         base of the segment before it, or its own base where there is none
    3 x u64  counts           examples, predictions and feedback of the partition before this segment
    f64      time             of the last append before this segment, seconds since 1970
    u32      CRC-32           of everything above
    4 bytes  zero

and a frame is::

    4 bytes  magic            "PFRM"
    u32      CRC-32           of everything below, padding included
    u32      length           of the payload in bytes
    u32      count            events in it
    u64      first            offset of its first event
    f64      time             of the append, seconds since 1970
    u32      into group       events of the same append that stand before this frame
    u8       kind
    u8       1 where its events were erased: then it stands for so many of that kind, and has no payload
    2 x zero
    payload, padded with zeros to a multiple of 8, so that its arrays stay aligned

An append writes all its frames and makes them durable together, and begins only when the one before is durable. So a
whole frame of a later append proves that everything before that append had been durable.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from penstock.errors import LogCorrupt
from penstock.eventlog.interface import Counts, Entry, Frame
from penstock.events import Kind, Offset, Partition

FORMAT = 1
ERASED_FORMAT = 2
"""Of a segment with frames whose events were erased: a release that does not know them must not read it."""
SUFFIX = ".log"

_SEGMENT_MAGIC = b"PENSTLOG"
_SEGMENT = struct.Struct("<8sIIQQQQQd")
_SEGMENT_CRC = struct.Struct("<I4x")
SEGMENT_HEADER_BYTES = _SEGMENT.size + _SEGMENT_CRC.size

_FRAME_MAGIC = b"PFRM"
_FRAME = struct.Struct("<4sIIIQdIBB2x")
_FRAME_REST = struct.Struct("<IIQdIBB2x")
_FRAME_CRC_START = 8
_PADDING = [b"\0" * n for n in range(8)]
_KINDS: tuple[Kind | None, ...] = (None, Kind.EXAMPLE, Kind.PREDICTION, Kind.FEEDBACK)

PAYLOAD_BYTES_MAX = 2**32 - 1
_CHUNK_BYTES = 512 * 1024
"""Read at once: large enough for few calls, small enough to stay in a core's cache."""


class SegmentHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What a segment says of itself and of what stands before it."""

    partition: Partition
    base: Offset
    previous: Offset
    counts: Counts
    time: float
    format: int = FORMAT


def segment_path(folder: Path, base: Offset) -> Path:
    return folder / f"{base:020d}{SUFFIX}"


def segment_bases(folder: Path) -> list[Offset]:
    """The first offsets of all segments in a partition's folder, in order."""
    names = (name.removesuffix(SUFFIX) for name in os.listdir(folder) if name.endswith(SUFFIX))
    return sorted(Offset(int(name)) for name in names if len(name) == 20 and name.isdigit())


def segment_header_bytes(header: SegmentHeader) -> bytes:
    counts = header.counts
    packed = _SEGMENT.pack(
        _SEGMENT_MAGIC,
        header.format,
        header.partition,
        header.base,
        header.previous,
        counts.examples,
        counts.predictions,
        counts.feedback,
        header.time,
    )
    return packed + _SEGMENT_CRC.pack(zlib.crc32(packed))


def frame_buffers(entry: Entry, first: Offset, time: float, into_group: int) -> list[bytes | memoryview]:
    """The frame of this entry as buffers to be written one after the other; the payload is not copied.

    Raises ValueError for an entry without events or with more than 4 GiB."""
    payload = [buffer if isinstance(buffer, bytes) else buffer.cast("B") for buffer in entry.payload]
    length = sum(map(len, payload))
    if entry.count < 1 or length > PAYLOAD_BYTES_MAX:
        raise ValueError(f"a frame holds at least one event and at most {PAYLOAD_BYTES_MAX} bytes")
    rest = _FRAME_REST.pack(length, entry.count, first, time, into_group, entry.kind, entry.erased)
    crc = zlib.crc32(rest)
    for buffer in payload:
        crc = zlib.crc32(buffer, crc)
    padding = _PADDING[-length % 8]
    if padding:
        crc = zlib.crc32(padding, crc)
        return [_FRAME_MAGIC + crc.to_bytes(4, "little") + rest, *payload, padding]
    return [_FRAME_MAGIC + crc.to_bytes(4, "little") + rest, *payload]


def payload_bytes(entry: Entry) -> int:
    return sum(buffer.nbytes if isinstance(buffer, memoryview) else len(buffer) for buffer in entry.payload)


def add_counts(counts: Counts, entries: Sequence[Entry]) -> Counts:
    """The counts after these entries."""
    totals = [0, counts.examples, counts.predictions, counts.feedback]
    for entry in entries:
        totals[entry.kind] += entry.count
    return Counts(examples=totals[1], predictions=totals[2], feedback=totals[3])


class SegmentFile:
    """A segment opened for reading. Not to be shared by threads.

    It closes itself when nothing uses it any more, so that a reader can go on to the next segment, or retention remove
    this one, while frames of it are still being taken."""

    def __init__(self, folder: Path, base: Offset) -> None:
        """Raises FileNotFoundError where there is none, and LogCorrupt where its header is not what was written."""
        self.path = segment_path(folder, base)
        self.base = base
        self._fd = -1
        self._chunk = memoryview(b"")
        self._chunk_byte = 0
        self._fd = os.open(self.path, os.O_RDONLY)
        self.header = self._read_header()

    def __del__(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def damaged(self, byte: int, reason: str, offset: Offset | None = None) -> LogCorrupt:
        """The error for bytes that are not what was written; ``offset`` is the first event that cannot be read."""
        partition = None if offset is None else self.header.partition
        return LogCorrupt(file=str(self.path), byte=byte, reason=reason, partition=partition, offset=offset)

    def frame_at(self, byte: int, stop: int, first: Offset) -> tuple[Frame, int]:
        """The frame at this byte, which must begin with offset first and end by stop, and the byte after it.

        Raises LogCorrupt where the bytes are not what was written."""
        size, _ = self.frame_extent(byte, stop, first)
        view = self._bytes(byte, size, stop, first)[:size]
        if len(view) < size:
            raise self.damaged(byte, "the file ends inside a frame", first)
        _, crc, length, count, _, time, _, kind_code, erased = _FRAME.unpack_from(view)
        if zlib.crc32(view[_FRAME_CRC_START:]) != crc:
            raise self.damaged(byte, "the frame's checksum does not match its bytes", first)
        kind = _KINDS[kind_code] if kind_code < len(_KINDS) else None
        if kind is None or count < 1:
            raise self.damaged(byte, f"a frame of unknown kind {kind_code} with {count} events", first)
        payload = view[_FRAME.size : _FRAME.size + length]
        found = Frame(
            partition=self.header.partition,
            first=first,
            kind=kind,
            count=count,
            time=time,
            payload=payload,
            erased=bool(erased),
        )
        return found, byte + size

    def into_group(self, byte: int, first: Offset) -> int:
        """Events of the same append that stand before the whole frame at this byte."""
        into_group: int = _FRAME.unpack_from(self._bytes(byte, _FRAME.size, byte + _FRAME.size, first))[6]
        return into_group

    def frame_extent(self, byte: int, stop: int, first: Offset) -> tuple[int, int]:
        """Bytes and events of the frame at this byte, by its header alone: what it takes to step over it.

        Raises LogCorrupt where no frame with offset first can stand here."""
        view = self._bytes(byte, _FRAME.size, stop, first)
        if len(view) < _FRAME.size:
            raise self.damaged(byte, "the file ends inside a frame's header", first)
        magic, _, length, count, found, *_ = _FRAME.unpack_from(view)
        if magic != _FRAME_MAGIC:
            raise self.damaged(byte, "no frame begins here", first)
        if found != first:
            raise self.damaged(byte, f"the frame here begins with offset {found}, not {first}", first)
        size = _FRAME.size + length + (-length % 8)
        if byte + size > stop:
            raise self.damaged(byte, f"the frame here would end at byte {byte + size}, beyond {stop}", first)
        return size, count

    def holds_later_append(self, byte: int, first: Offset) -> bool:
        """Whether a whole frame of a later append than the one at this byte, with offset first, follows it."""
        return any(append > first for _, _, append in self.whole_frames_behind(byte))

    def whole_frames_behind(self, byte: int) -> Iterator[tuple[int, Offset, int]]:
        """Wherever a whole frame begins behind this byte: its place, its first offset, and that of its append."""
        rest = os.pread(self._fd, max(0, self.size() - byte), byte)
        at = rest.find(_FRAME_MAGIC, 1)
        while at >= 0 and len(rest) - at >= _FRAME.size:
            _, crc, length, _, found, _, into_group, *_ = _FRAME.unpack_from(rest, at)
            end = at + _FRAME.size + length + (-length % 8)
            if end <= len(rest) and zlib.crc32(memoryview(rest)[at + _FRAME_CRC_START : end]) == crc:
                yield byte + at, Offset(found), found - into_group
            at = rest.find(_FRAME_MAGIC, at + 1)

    def _bytes(self, byte: int, needed: int, stop: int, first: Offset) -> memoryview:
        """What stands from this byte on: as much as needed, unless the file or stop comes first, and often more."""
        at = byte - self._chunk_byte
        if at < 0 or at + needed > len(self._chunk):
            wanted = max(0, min(max(needed, _CHUNK_BYTES), stop - byte))
            try:
                self._chunk = memoryview(os.pread(self._fd, wanted, byte))
            except OSError as error:
                raise self.damaged(byte, f"it cannot be read: {error.strerror}", first) from error
            self._chunk_byte = byte
            at = 0
        return self._chunk[at:]

    def _read_header(self) -> SegmentHeader:
        packed = os.pread(self._fd, SEGMENT_HEADER_BYTES, 0)
        if len(packed) < SEGMENT_HEADER_BYTES:
            raise self.damaged(0, "the file ends inside the segment's header")
        magic, version, partition, base, previous, examples, predictions, feedback, time = _SEGMENT.unpack_from(packed)
        if magic != _SEGMENT_MAGIC:
            raise self.damaged(0, "this is no segment of an event log")
        if version not in (FORMAT, ERASED_FORMAT):
            known = f"formats {FORMAT} and {ERASED_FORMAT}"
            raise self.damaged(8, f"it is in format {version}, and this release reads {known}")
        if packed[_SEGMENT.size :] != _SEGMENT_CRC.pack(zlib.crc32(packed[: _SEGMENT.size])):
            raise self.damaged(0, "the segment header's checksum does not match its bytes")
        if base != self.base:
            raise self.damaged(16, f"it says that it begins with offset {base}, not {self.base}")
        return SegmentHeader(
            partition=Partition(partition),
            base=Offset(base),
            previous=Offset(previous),
            counts=Counts(examples=examples, predictions=predictions, feedback=feedback),
            time=time,
            format=version,
        )
