"""Any sequence of appends, reads, retention, crashes and power failures, against a list in memory."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from penstock.errors import OffsetGone
from penstock.eventlog.interface import Entry
from penstock.eventlog.local import LocalLogReader, LocalLogWriter
from penstock.eventlog.segment import add_counts, frame_buffers, segment_path
from penstock.events import Kind, Offset
from penstock.testing.log_conformance import P0, content

QUICK_DISK = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Where an fsync costs nothing: what a crash leaves behind is made up here."""

entries = st.builds(
    lambda kind, count, parts: Entry(kind=kind, count=count, payload=parts),
    st.sampled_from(list(Kind)),
    st.integers(1, 5),
    st.lists(st.binary(max_size=60) | st.integers(60, 600).map(bytes), max_size=3),
)
groups = st.lists(entries, min_size=1, max_size=5)


class LogStates(RuleBasedStateMachine):
    """What was acknowledged is in ``kept``; what retention may have removed comes before ``first``."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[tuple[int, Kind, int, bytes]] = []
        self.all_entries: list[Entry] = []
        self.first = 0
        self.end = 0
        self.incarnation = 0
        self.marks: list[bytes] = []

    @initialize(segment_bytes=st.sampled_from([100, 700, 3000, 1 << 26]))
    def open_first(self, segment_bytes: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="penstock-states-", dir=QUICK_DISK))
        self.segment_bytes = segment_bytes
        self.reader = LocalLogReader(self.folder)
        self.open()

    def open(self) -> None:
        self.writer = LocalLogWriter(self.folder, P0, segment_bytes=self.segment_bytes)
        assert self.writer.incarnation > self.incarnation
        self.incarnation = self.writer.incarnation
        self.marks = [self.mark_path.read_bytes()]

    @property
    def mark_path(self) -> Path:
        return self.folder / "0" / "mark"

    def kill(self) -> None:
        """Drop the writer's descriptors as the end of its process would: nothing is flushed, nothing is given back."""
        os.close(self.writer._fd)
        os.close(self.writer._lock_fd)

    def acknowledge(self, group: list[Entry]) -> None:
        for entry in group:
            self.kept.append((self.end, entry.kind, entry.count, b"".join(entry.payload)))
            self.all_entries.append(entry)
            self.end += entry.count

    @rule(group=groups)
    def append(self, group: list[Entry]) -> None:
        segment = self.writer._mark.segment
        offsets = self.writer.append(group)
        before = len(self.kept)
        self.acknowledge(group)
        assert offsets == [first for first, *_ in self.kept[before:]]
        if self.writer._mark.segment != segment:
            self.marks.clear()
        self.marks.append(self.mark_path.read_bytes())

    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        start = data.draw(st.integers(0, self.end), label="start")
        stop = data.draw(st.integers(start, self.end), label="stop")
        if start < self.first and start < stop:
            with pytest.raises(OffsetGone):
                list(self.reader.read(P0, Offset(start), Offset(stop)))
            return
        found = content(list(self.reader.read(P0, Offset(start), Offset(stop))))
        assert found == [f for f in self.kept if f[0] < stop and f[0] + f[2] > start and start < stop]

    @rule(limit=st.integers(0, 50))
    def recent(self, limit: int) -> None:
        found = content(list(self.writer.recent(limit)))
        assert found == self.kept[len(self.kept) - len(found) :]
        assert sum(count for _, _, count, _ in found) >= min(limit, self.end - self.first)

    @rule(data=st.data(), max_bytes=st.integers(0, 4000))
    def retain(self, data: st.DataObject, max_bytes: int) -> None:
        needed = data.draw(st.integers(0, self.end), label="needed")
        removed = self.writer.retain(Offset(needed), max_bytes, 1e12, 0.0)
        assert self.first <= removed.first <= max(needed, self.first)
        self.first = removed.first
        self.kept = [f for f in self.kept if f[0] >= self.first]

    @rule()
    def reopen(self) -> None:
        self.writer.close()
        self.open()
        assert self.writer.tail_cut_bytes == 0
        assert self.writer.end() == self.end

    @rule(group=groups, data=st.data())
    def crash_while_appending(self, group: list[Entry], data: st.DataObject) -> None:
        """The last append reached the file in part: cut short, or with a hole of other bytes in it."""
        path = segment_path(self.folder / "0", self.writer._mark.segment)
        self.kill()
        at = self.end
        written = b""
        for entry in group:
            written += b"".join(frame_buffers(entry, Offset(at), self.writer._mark.time, at - self.end))
            at += entry.count
        written = written[: data.draw(st.integers(0, len(written)), label="bytes written")]
        if written and data.draw(st.booleans(), label="with a hole"):
            hole = data.draw(st.integers(0, len(written) - 1), label="hole at")
            written = written[:hole] + bytes(min(9, len(written) - hole)) + written[hole + 9 :]
        with path.open("ab") as file:
            file.write(written)
        self.open()
        survived = self.writer.end() - self.end
        whole = 0
        while survived > 0:
            survived -= group[whole].count
            whole += 1
        assert survived == 0, "a part of a batch survived"
        self.acknowledge(group[:whole])
        left = sum(len(b"".join(frame_buffers(e, Offset(0), 0.0, 0))) for e in group[:whole])
        assert self.writer.tail_cut_bytes == len(written) - left

    @rule(data=st.data())
    def power_failure(self, data: st.DataObject) -> None:
        """The mark on disk is one of those since the last segment was begun, or none; the readers are gone too."""
        old = data.draw(st.sampled_from([*self.marks, bytes(1024)]), label="mark on disk")
        self.kill()
        self.reader.close()
        self.mark_path.write_bytes(old)
        self.open()
        assert (self.writer.end(), self.writer.tail_cut_bytes) == (self.end, 0)
        self.reader = LocalLogReader(self.folder)

    @invariant()
    def ends_and_counts_are_those_of_what_was_acknowledged(self) -> None:
        if hasattr(self, "writer"):
            assert self.reader.ends() == {P0: self.end}
            assert self.reader.starts() == {P0: self.first}
            assert self.reader.counts() == add_counts(type(self.reader.counts())(), self.all_entries)

    def teardown(self) -> None:
        if hasattr(self, "writer"):
            self.reader.close()
            self.writer.close()
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)


LogStates.TestCase.settings = settings(max_examples=100, stateful_step_count=30)
TestLogStates = LogStates.TestCase
