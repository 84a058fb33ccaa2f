"""Looking through a partition that nobody has open: every frame, without changing anything.

Unlike opening a partition, which stops at the first thing that is wrong, this goes on behind it and says which offsets
are lost. It changes nothing; the repairs that it hands out do, and none of them removes an event that was acknowledged.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from pathlib import Path

from penstock.errors import LogCorrupt
from penstock.eventlog.findings import Found, cut_tail, found, put_aside
from penstock.eventlog.interface import Counts, Entry, Frame
from penstock.eventlog.mark import FILE_NAME as MARK
from penstock.eventlog.mark import Mark, MarkFile
from penstock.eventlog.recovery import INCARNATION_FILE, recover, write_durably
from penstock.eventlog.segment import SEGMENT_HEADER_BYTES, SegmentFile, add_counts, segment_bases, segment_path
from penstock.events import Kind, Offset, Partition, PayloadDamaged, decode

LOST = (
    "These events were acknowledged and cannot be read. A learner that has not taken them yet stops here; versions "
    "that learned from them cannot be rebuilt."
)
RESTORE = "Restore the file from a copy. Without one, nothing can bring them back, and nothing is skipped silently."
_OUR_IDS = re.compile(r"(\d+)-(\d+)-\d+")
"""Ids that a server gave predictions: partition, incarnation and a count."""


@dataclass(slots=True)
class Inspected:
    """What was found in one partition."""

    partition: Partition
    first: Offset
    """The oldest offset that is there."""
    end: Offset
    """The offset after the last one that can be read."""
    events: int = 0
    """That could be read."""
    erased: int = 0
    """That stood there once, and were erased."""
    findings: list[Found] = field(default_factory=list)


def inspect_partition(log: Path, partition: Partition) -> Inspected:
    """Read all of a partition in a log's folder, and its mark and its incarnation."""
    return _Inspection(log / str(partition), partition).run()


class _Inspection:
    def __init__(self, folder: Path, partition: Partition) -> None:
        self._folder = folder
        self._partition = partition
        self._seen = Inspected(partition, Offset(0), Offset(0))
        self._mark = _read_mark(folder)
        self._counts: Counts | None = None
        """Of all events so far; None once some of them could not be read."""
        self._incarnation = 0
        """The highest that an id in the log names."""

    def run(self) -> Inspected:
        bases = segment_bases(self._folder)
        if bases:
            self._seen.first = self._seen.end = bases[0]
        for number, base in enumerate(bases):
            self._look_at_segment(base, bases[number - 1] if number else None, is_last=number == len(bases) - 1)
        self._look_at_mark(bases)
        self._look_at_incarnation(bool(bases))
        return self._seen

    def _look_at_segment(self, base: Offset, before: Offset | None, is_last: bool) -> None:
        expected = self._seen.end
        try:
            file = SegmentFile(self._folder, base)
        except LogCorrupt as error:
            self._tell(segment_path(self._folder, base), error.byte, base, error.reason)
            self._counts = None
            return
        if file.header.partition != self._partition:
            reason = f"it belongs to partition {file.header.partition}, not {self._partition}"
            self._tell(file.path, 12, base, reason)
        if before is not None and base != expected:
            lost = f"offsets {expected} to {base - 1} are missing in front of it"
            self._tell(file.path, 0, expected, lost)
            self._counts = None
        elif before is not None and self._counts is not None and file.header.counts != self._counts:
            self._tell(file.path, 32, base, "the counts in its header are not those of the segments before it")
        self._seen.end = base
        if self._counts is None:
            self._counts = file.header.counts
        self._look_at_frames(file, is_last)

    def _look_at_frames(self, file: SegmentFile, is_last: bool) -> None:
        byte, size = SEGMENT_HEADER_BYTES, file.size()
        while byte < size:
            try:
                frame, byte = file.frame_at(byte, size, self._seen.end)
            except LogCorrupt as error:
                if is_last and self._is_torn(file, byte):
                    self._tell_torn(file, byte, size - byte)
                    return
                behind = ((at, first) for at, first, _ in file.whole_frames_behind(byte) if first > self._seen.end)
                at, first = next(behind, (size, None))
                until = f"up to byte {at}" + ("" if first is None else f", offsets {self._seen.end} to {first - 1}")
                self._tell(file.path, byte, self._seen.end, f"{error.reason}; it cannot be read {until}")
                self._counts = None
                if first is None:
                    return
                byte, self._seen.end = at, first
            else:
                self._look_at_events(file, frame)

    def _look_at_events(self, file: SegmentFile, frame: Frame) -> None:
        self._seen.end = Offset(frame.first + frame.count)
        if self._counts is not None:
            self._counts = add_counts(self._counts, [Entry(kind=frame.kind, count=frame.count, payload=())])
        if frame.erased:
            self._seen.erased += frame.count
            return
        self._seen.events += frame.count
        try:
            batch = decode(frame.payload)
            if len(batch) != frame.count or batch.kind != frame.kind:
                raise PayloadDamaged(reason=f"it says {frame.count} events and holds {len(batch)} ")
        except PayloadDamaged as error:
            self._tell(file.path, None, frame.first, str(error))
            return
        if frame.kind is Kind.PREDICTION and batch.ids:
            ours = _OUR_IDS.fullmatch(batch.ids[-1] or "")
            if ours is not None and int(ours[1]) == self._partition:
                self._incarnation = max(self._incarnation, int(ours[2]))

    def _is_torn(self, file: SegmentFile, byte: int) -> bool:
        """Whether an append that was never acknowledged begins here, as the end of its process left it."""
        mark = self._mark
        durable = mark.byte if mark is not None and mark.segment == file.base else SEGMENT_HEADER_BYTES
        return byte >= durable and not file.holds_later_append(byte, self._seen.end)

    def _tell_torn(self, file: SegmentFile, byte: int, size: int) -> None:
        self._seen.findings.append(
            found(
                lambda: cut_tail(file.path, byte),
                part="log",
                file=str(file.path),
                byte=byte,
                partition=self._partition,
                offset=self._seen.end,
                what=f"{size} bytes of an append that was not finished stand at the end",
                means="It was being written when its process ended, and was never acknowledged. Nothing is lost.",
                remedy="The next start cuts it off by itself, and so does --repair.",
            )
        )

    def _tell(self, file: Path, byte: int | None, offset: int, what: str) -> None:
        self._seen.findings.append(
            found(
                part="log",
                file=str(file),
                byte=byte,
                partition=self._partition,
                offset=offset,
                what=what,
                means=LOST,
                remedy=RESTORE,
            )
        )

    def _look_at_mark(self, bases: list[Offset]) -> None:
        mark, path = self._mark, self._folder / MARK
        if mark is None:
            if bases:
                self._seen.findings.append(
                    found(
                        None if self._seen.findings else lambda: self._rebuild_mark(path),
                        part="log",
                        file=str(path),
                        partition=self._partition,
                        what="it is missing or cannot be read",
                        means="It only says how far the partition is durable, which the segments say as well.",
                        remedy="The next start makes it anew, and so does --repair once the segments are in order.",
                    )
                )
        elif mark.end > self._seen.end:
            last = segment_path(self._folder, bases[-1]) if bases else path
            self._tell(last, None, self._seen.end, f"offsets {self._seen.end} to {mark.end - 1} are missing at the end")

    def _rebuild_mark(self, path: Path) -> Path | None:
        aside = put_aside(path) if path.exists() else None
        marks = MarkFile(self._folder, writable=True)
        try:
            recover(self._folder, self._partition, marks)
        finally:
            marks.close()
        return aside

    def _look_at_incarnation(self, is_used: bool) -> None:
        path = self._folder / INCARNATION_FILE
        try:
            number = int(path.read_bytes())
        except (FileNotFoundError, ValueError):
            number = -1
        if number >= self._incarnation and (number >= 0 or not is_used):
            return
        what = "it is missing or holds no number" if number < 0 else f"it says {number}, and ids name more"

        def rebuild() -> Path | None:
            aside = put_aside(path) if path.exists() else None
            # No partition is opened as often as seconds pass, so this is above whatever was given out.
            write_durably(path, b"%d\n" % (max(self._incarnation, int(time.time())) + 1))
            return aside

        self._seen.findings.append(
            found(
                rebuild,
                part="ids",
                file=str(path),
                partition=self._partition,
                what=what,
                means="Ids of predictions are counted from it; from a count begun anew they would not be unique.",
                remedy="--repair writes a number above every one that can have been given out.",
            )
        )


def _read_mark(folder: Path) -> Mark | None:
    try:
        marks = MarkFile(folder)
    except (FileNotFoundError, ValueError):
        return None
    try:
        return marks.read()
    finally:
        marks.close()
