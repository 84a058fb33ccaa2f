"""What every log has to do, whatever it is made of: inherit `LogConformance` in a test class and say how to make one.

::

    class TestMyLog(LogConformance):
        def open_log(self, folder):
            return MyLog(folder)
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Protocol

import pytest

from penstock.errors import FolderInUse, LogUnavailable
from penstock.eventlog.interface import Counts, Entry, Frame, LogReader, LogWriter
from penstock.events import Kind, Offset, Partition

P0, P1 = Partition(0), Partition(1)


class OpenedLog(Protocol):
    """A log that can be written and read, empty at first."""

    def writer(self, partition: Partition) -> LogWriter: ...

    def reader(self) -> LogReader: ...


def entry(*payload: bytes | memoryview, kind: Kind = Kind.EXAMPLE, count: int = 1) -> Entry:
    return Entry(kind=kind, count=count, payload=payload)


def content(frames: list[Frame]) -> list[tuple[int, Kind, int, bytes]]:
    """First offset, kind, count and payload of each frame."""
    return [(frame.first, frame.kind, frame.count, bytes(frame.payload)) for frame in frames]


class LogConformance:
    """The contract of the doors in `penstock.eventlog.interface`, as tests for pytest."""

    def open_log(self, folder: Path) -> OpenedLog:
        raise AssertionError("say in the subclass how the log is made")

    def test_what_was_appended_is_read_back(self, tmp_path: Path) -> None:
        log = self.open_log(tmp_path)
        writer, reader = log.writer(P0), log.reader()
        entries = [
            entry(b"head", b"", memoryview(b"columns"), count=3),
            entry(kind=Kind.PREDICTION),
            entry(b"\0" * 100_001, kind=Kind.FEEDBACK, count=1000),
        ]
        assert writer.append(entries) == [0, 3, 4]
        assert writer.append([entry(b"last")]) == [1004]
        assert writer.end() == 1005
        assert reader.ends() == {P0: 1005}
        assert content(list(reader.read(P0, Offset(0), Offset(1005)))) == [
            (0, Kind.EXAMPLE, 3, b"headcolumns"),
            (3, Kind.PREDICTION, 1, b""),
            (4, Kind.FEEDBACK, 1000, b"\0" * 100_001),
            (1004, Kind.EXAMPLE, 1, b"last"),
        ]
        writer.close()
        reader.close()

    def test_a_read_yields_the_frames_that_overlap_its_range_and_no_other(self, tmp_path: Path) -> None:
        log = self.open_log(tmp_path)
        writer, reader = log.writer(P0), log.reader()
        writer.append([entry(b"%d" % i, count=4) for i in range(5)])

        def firsts(start: int, stop: int) -> list[int]:
            return [frame.first for frame in reader.read(P0, Offset(start), Offset(stop))]

        assert firsts(0, 20) == [0, 4, 8, 12, 16]
        assert firsts(4, 8) == [4]
        assert firsts(5, 6) == [4]
        assert firsts(7, 9) == [4, 8]
        assert firsts(9, 17) == [8, 12, 16]
        assert firsts(3, 4) == [0]
        assert firsts(8, 8) == []
        assert firsts(20, 20) == []
        writer.close()
        reader.close()

    def test_an_unfinished_read_leaves_the_next_one_alone(self, tmp_path: Path) -> None:
        log = self.open_log(tmp_path)
        writer, reader = log.writer(P0), log.reader()
        writer.append([entry(b"%d" % i) for i in range(10)])
        one, other = reader.read(P0, Offset(0), Offset(10)), reader.read(P0, Offset(5), Offset(10))
        assert [next(one).first, next(other).first, next(one).first, next(other).first] == [0, 5, 1, 6]
        assert [frame.first for frame in reader.read(P0, Offset(2), Offset(4))] == [2, 3]
        assert [frame.first for frame in one] == list(range(2, 10))
        writer.close()
        reader.close()

    def test_counts_are_by_kind_and_over_all_partitions(self, tmp_path: Path) -> None:
        log = self.open_log(tmp_path)
        zero, one, reader = log.writer(P0), log.writer(P1), log.reader()
        assert reader.counts() == Counts()
        zero.append([entry(count=5), entry(kind=Kind.PREDICTION, count=2)])
        one.append([entry(count=1), entry(kind=Kind.FEEDBACK, count=3)])
        assert reader.counts() == Counts(examples=6, predictions=2, feedback=3)
        assert reader.ends() == {P0: 7, P1: 4}
        for opened in (zero, one, reader):
            opened.close()

    def test_partitions_and_events_appear_in_an_open_reader(self, tmp_path: Path) -> None:
        log = self.open_log(tmp_path)
        reader = log.reader()
        assert reader.ends() == {}
        assert list(reader.read(P1, Offset(0), Offset(0))) == []
        writer = log.writer(P1)
        assert reader.ends() == {P1: 0}
        writer.append([entry(b"a")])
        assert [bytes(f.payload) for f in reader.read(P1, Offset(0), Offset(1))] == [b"a"]
        writer.append([entry(b"b")])
        assert [bytes(f.payload) for f in reader.read(P1, Offset(1), Offset(2))] == [b"b"]
        writer.close()
        reader.close()

    def test_offsets_beyond_the_end_are_refused(self, tmp_path: Path) -> None:
        log = self.open_log(tmp_path)
        writer, reader = log.writer(P0), log.reader()
        writer.append([entry(count=3)])
        with pytest.raises(ValueError, match="offset 3"):
            list(reader.read(P0, Offset(0), Offset(4)))
        writer.close()
        reader.close()

    def test_a_frame_without_events_is_refused_and_nothing_of_its_append_is_kept(self, tmp_path: Path) -> None:
        log = self.open_log(tmp_path)
        writer = log.writer(P0)
        with pytest.raises(ValueError, match="at least one event"):
            writer.append([entry(b"good"), entry(b"bad", count=0)])
        assert writer.append([]) == []
        assert writer.append([entry(b"next")]) == [0]
        writer.close()

    def test_a_partition_has_one_writer_at_a_time_and_goes_on_after_it(self, tmp_path: Path) -> None:
        log = self.open_log(tmp_path)
        first, reader = log.writer(P0), log.reader()
        first.append([entry(b"a", count=2)])
        with pytest.raises(FolderInUse):
            log.writer(P0)
        first.close()
        first.close()
        with pytest.raises(LogUnavailable):
            first.append([entry()])
        second = log.writer(P0)
        assert second.end() == 2
        assert second.append([entry(b"b")]) == [2]
        assert [bytes(f.payload) for f in reader.read(P0, Offset(0), Offset(3))] == [b"a", b"b"]
        second.close()
        reader.close()

    def test_append_times_never_decrease(self, tmp_path: Path) -> None:
        log = self.open_log(tmp_path)
        writer, reader = log.writer(P0), log.reader()
        for _ in range(20):
            writer.append([entry(), entry()])
        times = [frame.time for frame in reader.read(P0, Offset(0), Offset(40))]
        assert times == sorted(times)
        assert times[0] == times[1]
        assert times[0] > 1.6e9
        writer.close()
        reader.close()

    def test_waiting_ends_with_news_and_not_before(self, tmp_path: Path) -> None:
        log = self.open_log(tmp_path)
        reader = log.reader()
        assert not reader.wait({}, 0.0)
        woken: list[bool] = []
        sleeper = threading.Thread(target=lambda: woken.append(reader.wait({P0: Offset(1)}, 60.0)))
        sleeper.start()
        writer = log.writer(P0)
        writer.append([entry()])
        sleeper.join(0.05)
        assert sleeper.is_alive(), "offset 0 was known already"
        writer.append([entry()])
        sleeper.join(60.0)
        assert woken == [True]
        assert reader.wait({P0: Offset(1)}, 0.0)
        assert not reader.wait({P0: Offset(2)}, 0.001)
        writer.close()
        reader.close()
