"""Single events read again from a log."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from penstock.eventlog.interface import Entry
from penstock.eventlog.picked import FAR, read_events
from penstock.events import Batch, Kind, Offset, Partition, encode
from penstock.testing.memory_log import MemoryLog

FRAME = 1000
FRAMES = 30


def filled() -> MemoryLog:
    """Event i has the number i."""
    log = MemoryLog()
    writer = log.writer(Partition(0))
    for first in range(0, FRAME * FRAMES, FRAME):
        batch = Batch(
            kind=Kind.PREDICTION,
            times=np.zeros(FRAME),
            ids=None,
            sources=None,
            numbers=np.arange(first, first + FRAME, dtype=np.float64)[:, None],
            vectors=(),
            strings=(),
            labels=None,
            versions=np.ones(FRAME, np.uint64),
        )
        writer.append([Entry(kind=Kind.PREDICTION, count=FRAME, payload=encode(batch))])
    return log


LOG = filled()


@given(st.sets(st.integers(0, FRAME * FRAMES - 1), min_size=1, max_size=30))
def test_the_events_asked_for_are_read_in_their_order(offsets: set[int]) -> None:
    asked = [Offset(offset) for offset in sorted(offsets)]
    assert read_events(LOG.reader(), Partition(0), asked).numbers[:, 0].tolist() == asked


def test_what_lies_between_far_events_is_not_read() -> None:
    reader = LOG.reader()
    spans = []

    class Watched:
        def read(self, partition: Partition, start: Offset, stop: Offset):  # type: ignore[no-untyped-def]
            spans.append((start, stop))
            return reader.read(partition, start, stop)

    asked = [Offset(0), Offset(5), Offset(5 + FAR), Offset(6 + 2 * FAR)]
    read_events(Watched(), Partition(0), asked)  # type: ignore[arg-type]
    assert spans == [(0, 6 + FAR), (6 + 2 * FAR, 7 + 2 * FAR)]
