"""Single events, read again from the log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from penstock.eventlog.interface import LogReader
from penstock.events import Batch, Offset, Partition, concatenate, decode, placed

FAR = 8192
"""Offsets further apart than this are looked up one by one: passing over the frames between costs more than a seek."""


def picked(reader: LogReader, partition: Partition, offsets: Sequence[Offset]) -> Iterator[Batch]:
    """The events at these ascending offsets with their places, frame by frame; frames without one of them are not
    decoded.

    Raises OffsetGone and LogCorrupt."""
    for near in _runs(offsets):
        wanted = np.asarray(near)
        for frame in reader.read(partition, near[0], Offset(near[-1] + 1)):
            low, high = np.searchsorted(wanted, (frame.first, frame.first + frame.count))
            if high > low:
                batch = decode(frame.payload).rows(wanted[low:high] - frame.first)
                yield placed(batch, partition, wanted[low:high].tolist())


def read_events(reader: LogReader, partition: Partition, offsets: Sequence[Offset]) -> Batch:
    """The same for events of one kind, as one batch."""
    return concatenate(list(picked(reader, partition, offsets)))


def _runs(offsets: Sequence[Offset]) -> Iterator[Sequence[Offset]]:
    begin = 0
    for place in range(1, len(offsets)):
        if offsets[place] - offsets[place - 1] > FAR:
            yield offsets[begin:place]
            begin = place
    yield offsets[begin:]
