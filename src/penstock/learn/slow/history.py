"""The past of a service, read again from its log: labelled events, in the order of the frames that completed them."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Protocol

import numpy as np

from penstock.eventlog.interface import Frame, LogReader
from penstock.eventlog.picked import read_events
from penstock.events import Batch, Offset, Partition, Position, decode, placed
from penstock.join.window import JoinWindow
from penstock.learn.amendments import Amendments
from penstock.learn.anchors import kept_back
from penstock.learn.quarantine import Spans
from penstock.learn.slow.reservoir import as_example
from penstock.learn.withdrawn import Withdrawn, parts
from penstock.spec import Spec


class WholeLog(LogReader, Protocol):
    """A reader that says where the log begins."""

    def starts(self) -> Position: ...


class History:
    """Reads on from where it stopped. Partitions are merged by the times of their frames, so that the order is a
    function of the log; within one partition it is the learner's own."""

    def __init__(
        self,
        spec: Spec,
        reader: WholeLog,
        withdrawn: Sequence[Withdrawn] = (),
        apart: Spans | None = None,
        amendments: Amendments | None = None,
    ) -> None:
        """Events that a rollback has withdrawn, or that are set ``apart``, are passed over. Events have the labels that
        ``amendments`` say."""
        self._spec = spec
        self._reader = reader
        self._apart = apart
        self._withdrawn = withdrawn
        self._join = JoinWindow.of(spec.label)
        self._join.fetch = lambda partition, offsets: read_events(reader, partition, offsets)
        self._amendments = amendments or Amendments()
        self.position: Position = dict(reader.starts())
        """Everything before these offsets was read, or removed before it could be."""
        self.count = 0
        """Labelled events that came so far, withdrawn ones included."""
        self.withdrawn: list[tuple[int, int]] = []
        """Those that are passed over: how many labelled events came before, and how many they are."""
        self.amended = Amendments()
        """What was said of labelled events that had come before, as far as it was read."""

    def until(self, stop: Position) -> Iterator[Batch]:
        """The labelled events that what stands before these offsets completes, from where the last call ended.

        A frame may be cut there. Raises OffsetGone and LogCorrupt."""
        partitions = sorted(partition for partition, end in stop.items() if end > self._at(partition))
        frames = heapq.merge(
            *(self._frames(partition, stop[partition]) for partition in partitions),
            key=lambda frame: (frame.time, frame.partition),
        )
        for frame in frames:
            begin = max(frame.first, self._at(frame.partition))
            end = min(frame.first + frame.count, stop[frame.partition])
            whole = decode(frame.payload)
            for first, last, is_withdrawn in parts(self._withdrawn, frame.partition, begin, end):
                batch = whole
                if last - first < frame.count:
                    batch = whole.rows(slice(first - frame.first, last - frame.first))
                self.position[frame.partition] = Offset(last)
                batch = placed(batch, frame.partition, range(first, last))
                joined = self._join.take(batch, frame.partition, Offset(first), frame.time)
                self.amended.add(self._join.take_amendments())
                for part, is_apart in () if joined is None else self._parts(joined):
                    before, self.count = self.count, self.count + len(part)
                    if is_withdrawn or is_apart:
                        self.withdrawn.append((before, len(part)))
                    else:
                        known = self._amendments.applied(as_example(part))
                        if len(known):
                            yield known

    def _parts(self, joined: Batch) -> Iterator[tuple[Batch, bool]]:
        """The batch, cut where events that are set apart begin or end."""
        apart = None if self._apart is None else self._apart.holds(joined)
        anchors = kept_back(self._spec, joined)
        if anchors is not None:
            apart = anchors if apart is None else apart | anchors
        if apart is None:
            yield joined, False
            return
        cuts = [0, *(np.flatnonzero(np.diff(apart)) + 1).tolist(), len(joined)]
        for start, stop in pairwise(cuts):
            yield joined.rows(slice(start, stop)), bool(apart[start])

    def take_withdrawn(self) -> int:
        """How many labelled events were passed over since this was asked last."""
        count = sum(n for _, n in self.withdrawn)
        self.withdrawn.clear()
        return count

    def _at(self, partition: Partition) -> Offset:
        return self.position.get(partition, Offset(0))

    def _frames(self, partition: Partition, stop: Offset) -> Iterator[Frame]:
        return self._reader.read(partition, self._at(partition), stop)
