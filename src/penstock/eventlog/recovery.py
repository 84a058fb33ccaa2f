"""Opening a partition after whatever happened: what is whole is kept, a torn tail is cut, the rest is an error."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from penstock.errors import LogCorrupt
from penstock.eventlog.folders import sync_folder
from penstock.eventlog.interface import Counts, Entry
from penstock.eventlog.mark import Mark, MarkFile
from penstock.eventlog.segment import (
    SEGMENT_HEADER_BYTES,
    SegmentFile,
    SegmentHeader,
    add_counts,
    segment_bases,
    segment_header_bytes,
    segment_path,
)
from penstock.events import Kind, Offset, Partition

INCARNATION_FILE = "incarnation"
_TEMPORARY = ".tmp"
_COPY_BYTES = 4 * 1024 * 1024


@dataclass(slots=True)
class Segment:
    """What the writer knows of a segment without opening it."""

    base: Offset
    size: int
    """Bytes; kept up for all but the last."""
    time_before: float
    """When the last append before it was made."""


@dataclass(frozen=True, slots=True)
class Recovered:
    segments: list[Segment]
    mark: Mark
    tail_cut_bytes: int


def write_durably(path: Path, content: bytes) -> None:
    """Make a file that is there whole or not at all, and durable with its name when this returns."""
    temporary = path.with_name(path.name + _TEMPORARY)
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        try:
            if os.write(fd, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    os.rename(temporary, path)
    sync_folder(path.parent)


def create_segment(folder: Path, header: SegmentHeader) -> None:
    """An empty segment, durable with its name before anything is written to it."""
    write_durably(segment_path(folder, header.base), segment_header_bytes(header))


def next_incarnation(folder: Path) -> int:
    """One more than at the last opening, durable before it is used. Raises LogCorrupt where it was lost."""
    path = folder / INCARNATION_FILE
    try:
        number = int(path.read_bytes())
    except FileNotFoundError:
        if segment_bases(folder):
            reason = "it is missing, and ids given out from a new count would not be unique"
            raise LogCorrupt(file=str(path), byte=0, reason=reason) from None
        number = 0
    except ValueError as error:
        raise LogCorrupt(file=str(path), byte=0, reason="it holds no number") from error
    write_durably(path, b"%d\n" % (number + 1))
    return number + 1


def recover(folder: Path, partition: Partition, marks: MarkFile) -> Recovered:
    """Bring the partition in order and move its mark to its end.

    Frames beyond the mark that are whole are kept: they may have been acknowledged before a power failure took the mark
    back. The first frame that is not whole ends the log if nothing acknowledged can stand there or behind it. Raises
    LogCorrupt for everything else, having changed nothing."""
    for leftover in folder.glob(f"*{_TEMPORARY}"):
        leftover.unlink()
    files = _open_all(folder, partition)
    mark = marks.read()
    if not files:
        if mark is not None:
            raise marks.contradicts(f"offsets {mark.first} to {mark.end} were durable, and there is no segment")
        header = SegmentHeader(partition=partition, base=Offset(0), previous=Offset(0), counts=Counts(), time=0.0)
        create_segment(folder, header)
        files = _open_all(folder, partition)
    start = _start(files, mark, marks)
    found, size = _scan(files, start)
    cut_bytes = size - found.byte
    _settle(files[-1], start, found, cut_bytes)
    marks.move(found)
    marks.flush()
    segments = [Segment(base=f.base, size=f.size(), time_before=f.header.time) for f in files]
    return Recovered(segments=segments, mark=found, tail_cut_bytes=cut_bytes)


def _open_all(folder: Path, partition: Partition) -> list[SegmentFile]:
    """All segments, with none missing between them."""
    files = [SegmentFile(folder, base) for base in segment_bases(folder)]
    for file in files:
        if file.header.partition != partition:
            raise file.damaged(12, f"it belongs to partition {file.header.partition}, not {partition}")
    for before, after in pairwise(files):
        if after.header.previous != before.base:
            reason = f"the segment before it, which begins with offset {after.header.previous}, is missing"
            raise after.damaged(0, reason)
    return files


def _start(files: Sequence[SegmentFile], mark: Mark | None, marks: MarkFile) -> Mark:
    """Where to begin looking: at the mark, or at the beginning of the last segment where there is none."""
    first = files[0].base
    if mark is None:
        last = files[-1]
        return Mark(
            segment=last.base,
            byte=SEGMENT_HEADER_BYTES,
            end=last.base,
            first=first,
            counts=last.header.counts,
            time=last.header.time,
        )
    file = next((f for f in files if f.base == mark.segment), None)
    if file is None:
        raise marks.contradicts(f"offsets up to {mark.end} were durable, and segment {mark.segment} is missing")
    if file.size() < mark.byte:
        raise file.damaged(file.size(), f"the file ends here, and {mark.byte} bytes of it were durable", mark.end)
    return Mark(segment=mark.segment, byte=mark.byte, end=mark.end, first=first, counts=mark.counts, time=mark.time)


def _scan(files: Sequence[SegmentFile], start: Mark) -> tuple[Mark, int]:
    """The end of what is whole, and the size of the last segment's file."""
    byte, end, counts, time = start.byte, start.end, start.counts, start.time
    last = files[-1]
    size = last.size()
    for file in (f for f in files if f.base >= start.segment):
        if file.base != start.segment:
            if file.base != end:
                raise file.damaged(0, f"the segment before it ends at offset {end}")
            byte = SEGMENT_HEADER_BYTES
        file_size = file.size()
        while byte < file_size:
            try:
                frame, byte = file.frame_at(byte, file_size, end)
            except LogCorrupt:
                # In an earlier segment, or in front of a later append, it had been durable: that is no torn tail.
                if file is not last or file.holds_later_append(byte, end):
                    raise
                size = file_size
                break
            end = Offset(end + frame.count)
            counts = add_counts(counts, [Entry(kind=Kind(frame.kind), count=frame.count, payload=())])
            time = max(time, frame.time)
    return Mark(segment=last.base, byte=byte, end=end, first=start.first, counts=counts, time=time), size


def _settle(last: SegmentFile, start: Mark, found: Mark, cut_bytes: int) -> None:
    """Cut the torn tail and make the frames beyond the mark durable.

    They are written once more: after a failed fsync the page cache may hold bytes that it takes for written and that
    never reached the disk, and another fsync alone would not write them. Only the last segment can have such bytes,
    since the next one is made only when all before it are durable."""
    byte = start.byte if start.segment == last.base else SEGMENT_HEADER_BYTES
    if not cut_bytes and byte == found.byte:
        return
    fd = os.open(last.path, os.O_RDWR)
    try:
        if cut_bytes:
            os.ftruncate(fd, found.byte)
        while byte < found.byte:
            copied = os.pread(fd, min(_COPY_BYTES, found.byte - byte), byte)
            byte += os.pwrite(fd, copied, byte)
        os.fsync(fd)
    finally:
        os.close(fd)
