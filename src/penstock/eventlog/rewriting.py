"""A partition written anew into another folder, with some of its frames changed or erased.

Offsets, kinds, times and what was appended together stay as they are, so that everything that speaks of the log by its
offsets goes on meaning the same events. The partition itself is not touched.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from penstock.eventlog.folders import sync_folder
from penstock.eventlog.interface import Entry, Frame
from penstock.eventlog.mark import MarkFile
from penstock.eventlog.recovery import INCARNATION_FILE, recover
from penstock.eventlog.segment import (
    ERASED_FORMAT,
    SEGMENT_HEADER_BYTES,
    SegmentFile,
    frame_buffers,
    segment_bases,
    segment_header_bytes,
    segment_path,
)
from penstock.events import Offset, Partition

Change = Callable[[Frame], Sequence[Entry] | None]
"""What takes the place of a frame, in order and together as many events of its kind; None where it stays."""


def rewrite_partition(folder: Path, target: Path, partition: Partition, change: Change) -> int:
    """Write the partition in this folder, which nobody else writes to and which has been opened since a crash, to the
    target folder, and return how many frames were changed. Frames that were erased before stay so.

    Raises LogCorrupt, and ValueError for a change that is not of as many events."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    bases = segment_bases(folder)
    changed = 0
    for base in bases:
        found = _rewrite(SegmentFile(folder, base), segment_path(target, base), change)
        changed += found
        if not found:
            # The last segment will be appended to, and its old name must not grow with it.
            _same_file(segment_path(folder, base), segment_path(target, base), may_share=base != bases[-1])
    shutil.copyfile(folder / INCARNATION_FILE, target / INCARNATION_FILE)
    sync_folder(target)
    marks = MarkFile(target, writable=True)
    try:
        recover(target, partition, marks)
    finally:
        marks.close()
    return changed


def _rewrite(file: SegmentFile, target: Path, change: Change) -> int:
    """Write the segment with its changes, or nothing where there is none; how many frames were changed."""
    changed, byte, first, size = 0, SEGMENT_HEADER_BYTES, file.base, file.size()
    written: BinaryIO | None = None
    try:
        with file.path.open("rb") as source:
            while byte < size:
                frame, after = file.frame_at(byte, size, first)
                entries = None if frame.erased else change(frame)
                if entries is not None:
                    changed += 1
                    if written is None:
                        written = target.open("xb")
                        written.write(segment_header_bytes(msgspec.structs.replace(file.header, format=ERASED_FORMAT)))
                        source.seek(SEGMENT_HEADER_BYTES)
                        _copy(source, written, byte - SEGMENT_HEADER_BYTES)
                    _write(written, frame, entries, file.into_group(byte, first))
                elif written is not None:
                    source.seek(byte)
                    _copy(source, written, after - byte)
                byte, first = after, Offset(first + frame.count)
        if written is not None:
            written.flush()
            os.fsync(written.fileno())
    finally:
        if written is not None:
            written.close()
    return changed


def _write(written: BinaryIO, frame: Frame, entries: Sequence[Entry], into_group: int) -> None:
    if sum(entry.count for entry in entries) != frame.count or any(entry.kind != frame.kind for entry in entries):
        raise ValueError(f"{len(entries)} entries are not the {frame.count} events at offset {frame.first}")
    behind = 0
    for entry in entries:
        at = Offset(frame.first + behind)
        written.writelines(frame_buffers(entry, at, frame.time, into_group + behind))
        behind += entry.count


def _copy(source: BinaryIO, target: BinaryIO, size: int) -> None:
    while size and (content := source.read(min(size, 1 << 20))):
        target.write(content)
        size -= len(content)


def _same_file(source: Path, target: Path, *, may_share: bool) -> None:
    """The file under another name as well, or a copy of it where that cannot be, or must not."""
    if may_share:
        try:
            os.link(source, target)
            return
        except OSError:
            # Some file systems know no second names.
            pass
    shutil.copyfile(source, target)
    with target.open("rb+") as file:
        os.fsync(file.fileno())
