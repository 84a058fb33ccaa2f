"""The log as it would be if some of its events had another label, or had never been sent.

The log itself is never changed: this is a reader for whoever takes the recorded steps once more.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import msgspec

from penstock.errors import NotAmendable
from penstock.eventlog.interface import Counts, Frame, LogReader
from penstock.events import Offset, Partition, Position, decode, encode
from penstock.spec import ClassName, ClassSet

Amendment = ClassName | ClassSet | float | None
"""The label that the event should have had; None for an event that is to be left out."""
Amendments = Mapping[tuple[Partition, Offset], Amendment]


class AmendedReader:
    """Implements LogReader over another one. Offsets stay as they are: where an event is left out there is a gap."""

    def __init__(self, reader: LogReader, amendments: Amendments) -> None:
        self._reader = reader
        self._amendments = amendments
        self._offsets: dict[Partition, list[Offset]] = {}
        for partition, offset in sorted(amendments):
            self._offsets.setdefault(partition, []).append(offset)

    def ends(self) -> Position:
        """The end of the durable part of each partition."""
        return self._reader.ends()

    def counts(self) -> Counts:
        """Durable events of each kind, those that are left out included."""
        return self._reader.counts()

    def read(self, partition: Partition, start: Offset, stop: Offset) -> Iterator[Frame]:
        """The frames that hold offsets from start up to stop; one with events that are left out comes in parts, of
        those that hold such offsets.

        Raises NotAmendable beside what the reader itself raises."""
        offsets = self._offsets.get(partition, [])
        for frame in self._reader.read(partition, start, stop):
            low, high = (bisect_left(offsets, edge) for edge in (frame.first, frame.first + frame.count))
            if low == high:
                yield frame
            else:
                for part in self._amended(frame, offsets[low:high]):
                    if part.first < stop and part.first + part.count > start:
                        yield part

    def wait(self, position: Position, timeout_s: float) -> bool:
        """Sleep until something beyond position is durable (True), somebody calls, or the time is over."""
        return self._reader.wait(position, timeout_s)

    def close(self) -> None:
        """Let go of files."""
        self._reader.close()

    def _amended(self, frame: Frame, offsets: list[Offset]) -> Iterator[Frame]:
        batch = decode(frame.payload)
        labels: Any = None if batch.labels is None else batch.labels.copy()
        gaps = [frame.first - 1]
        for offset in offsets:
            label = self._amendments[frame.partition, offset]
            if label is None:
                gaps.append(offset)
            elif (has := "none" if labels is None else _form(labels[offset - frame.first])) != _form(label):
                reason = f"it should have the label {label!r}, and its own is {has}"
                raise NotAmendable(partition=frame.partition, offset=offset, reason=reason)
            else:
                labels[offset - frame.first] = label
        batch = replace(batch, labels=labels)
        for before, after in pairwise([*gaps, frame.first + frame.count]):
            if after - before > 1:
                first, part = Offset(before + 1), batch.rows(slice(before + 1 - frame.first, after - frame.first))
                payload = memoryview(b"".join(encode(part)))
                yield msgspec.structs.replace(frame, first=first, count=len(part), payload=payload)


def _form(label: object) -> str:
    """What a label is, in words."""
    return "a class" if isinstance(label, str) else "a set of classes" if isinstance(label, tuple) else "a number"
