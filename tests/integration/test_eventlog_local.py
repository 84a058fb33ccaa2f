"""The log on disk: its contract, segments, opening again, retention, failing disks."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from penstock.errors import FolderInUse, LogUnavailable, OffsetGone
from penstock.eventlog.interface import Counts
from penstock.eventlog.local import LocalLogReader, LocalLogWriter
from penstock.events import Kind, Offset, Partition
from penstock.testing.log_conformance import P0, LogConformance, content, entry


class LocalLog:
    """A log folder; segments are small, so that every test crosses from one to the next."""

    def __init__(self, folder: Path, segment_bytes: int) -> None:
        self.folder = folder
        self.segment_bytes = segment_bytes

    def writer(self, partition: Partition) -> LocalLogWriter:
        return LocalLogWriter(self.folder, partition, segment_bytes=self.segment_bytes)

    def reader(self) -> LocalLogReader:
        return LocalLogReader(self.folder)


class TestLocalLog(LogConformance):
    def open_log(self, folder: Path) -> LocalLog:
        return LocalLog(folder / "service" / "log", 64 * 1024 * 1024)


class TestLocalLogOfSmallSegments(LogConformance):
    def open_log(self, folder: Path) -> LocalLog:
        return LocalLog(folder / "log", 100)


def segments(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "0").glob("*.log"))


def all_frames(folder: Path) -> list[tuple[int, Kind, int, bytes]]:
    reader = LocalLogReader(folder)
    try:
        return content(list(reader.read(P0, reader.starts()[P0], reader.ends()[P0])))
    finally:
        reader.close()


def test_segments_are_named_by_their_first_offset_and_go_on_after_opening_again(tmp_path: Path) -> None:
    for round_number in range(3):
        writer = LocalLogWriter(tmp_path, P0, segment_bytes=2000)
        for i in range(4):
            writer.append([entry(b"%d" % (round_number * 4 + i) * 700, count=3)])
        writer.close()
    names = segments(tmp_path)
    assert names[:2] == ["00000000000000000000.log", "00000000000000000006.log"]
    frames = all_frames(tmp_path)
    assert [first for first, *_ in frames] == list(range(0, 36, 3))
    assert [payload for *_, payload in frames] == [b"%d" % i * 700 for i in range(12)]
    assert len(names) > 5


def test_an_append_larger_than_a_segment_gets_one_of_its_own(tmp_path: Path) -> None:
    writer = LocalLogWriter(tmp_path, P0, segment_bytes=1000)
    writer.append([entry(b"small")])
    writer.append([entry(b"x" * 600), entry(b"y" * 600)])
    writer.append([entry(b"small")])
    writer.close()
    assert [int(name[:20]) for name in segments(tmp_path)] == [0, 1, 3]
    assert [payload[:1] for *_, payload in all_frames(tmp_path)] == [b"s", b"x", b"y", b"s"]


def test_an_append_of_more_buffers_than_one_call_takes_is_whole(tmp_path: Path) -> None:
    writer = LocalLogWriter(tmp_path, P0)
    offsets = writer.append([entry(b"a", b"bc", b"%d" % i) for i in range(3000)])
    writer.close()
    assert offsets == list(range(3000))
    assert [payload for *_, payload in all_frames(tmp_path)] == [b"abc%d" % i for i in range(3000)]


def test_payloads_begin_at_multiples_of_eight_in_memory_and_may_be_any_buffer(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    writer = LocalLogWriter(tmp_path, P0)
    matrix = np.arange(6, dtype=np.float64).reshape(2, 3)
    writer.append([entry(b"12345"), entry(matrix.data, count=2), entry(b"1"), entry(matrix.data, count=2)])
    reader = LocalLogReader(tmp_path)
    for frame in list(reader.read(P0, Offset(0), Offset(6)))[1::2]:
        array = np.frombuffer(frame.payload, np.float64)
        assert array.flags.aligned
        assert array.tolist() == [0, 1, 2, 3, 4, 5]
    reader.close()
    writer.close()


def test_counts_and_times_survive_opening_again_and_the_clock_going_back(tmp_path: Path) -> None:
    now = 2000.0
    for now in (2000.0, 1500.0, 3000.0):
        writer = LocalLogWriter(tmp_path, P0, segment_bytes=200, clock=lambda now=now: now)
        writer.append([entry(b"x" * 100, count=2), entry(b"y" * 100, kind=Kind.FEEDBACK)])
        writer.append([entry(b"z" * 100, kind=Kind.PREDICTION, count=4)])
        writer.close()
    reader = LocalLogReader(tmp_path)
    assert reader.counts() == Counts(examples=6, feedback=3, predictions=12)
    times = [frame.time for frame in reader.read(P0, Offset(0), Offset(21))]
    assert times == [2000.0] * 6 + [3000.0] * 3
    reader.close()


def test_a_second_writer_is_told_who_has_the_partition(tmp_path: Path) -> None:
    writer = LocalLogWriter(tmp_path, P0)
    with pytest.raises(FolderInUse, match=f"process {os.getpid()}"):
        LocalLogWriter(tmp_path, P0)
    LocalLogWriter(tmp_path, Partition(1)).close()
    writer.close()
    LocalLogWriter(tmp_path, P0).close()


def test_each_opening_has_a_higher_incarnation(tmp_path: Path) -> None:
    numbers = []
    for _ in range(3):
        writer = LocalLogWriter(tmp_path, P0)
        numbers.append(writer.incarnation)
        writer.close()
    assert numbers == [1, 2, 3]


def test_the_recent_frames_hold_at_least_so_many_events_across_segments(tmp_path: Path) -> None:
    writer = LocalLogWriter(tmp_path, P0, segment_bytes=300)
    for i in range(10):
        writer.append([entry(b"%d" % i * 100, count=10)])
    assert [frame.first for frame in writer.recent(25)] == [70, 80, 90]
    assert [frame.first for frame in writer.recent(10**9)] == list(range(0, 100, 10))
    writer.close()


def test_an_old_place_is_found_again_after_reading_on(tmp_path: Path) -> None:
    writer = LocalLogWriter(tmp_path, P0, segment_bytes=3_000_000)
    for first in range(0, 300, 3):
        writer.append([entry(b"%d " % (first + i) * 20_000) for i in range(3)])
    reader = LocalLogReader(tmp_path)
    for start in (299, 0, 150, 149, 10, 290, 77, 151):
        frame = next(reader.read(P0, Offset(start), Offset(300)))
        assert (frame.first, bytes(frame.payload[:4]).split()[0]) == (start, b"%d" % start)
    reader.close()
    writer.close()


class TestRetention:
    """Ten segments of one frame with two events, appended at 100, 101, ... seconds."""

    @pytest.fixture
    def writer(self, tmp_path: Path) -> LocalLogWriter:
        ticks = iter(range(100, 200))
        writer = LocalLogWriter(tmp_path, P0, segment_bytes=100, clock=lambda: float(next(ticks)))
        for _ in range(10):
            writer.append([entry(b"x" * 1000, count=2)])
        return writer

    def test_what_is_beyond_the_size_goes_if_nobody_needs_it(self, tmp_path: Path, writer: LocalLogWriter) -> None:
        one = (tmp_path / "0" / segments(tmp_path)[0]).stat().st_size
        removed = writer.retain(Offset(20), 4 * one, 1e9, 110.0)
        assert (removed.segments, removed.bytes, removed.first) == (6, 6 * one, 12)
        assert len(segments(tmp_path)) == 4
        assert writer.retain(Offset(20), 4 * one, 1e9, 110.0).segments == 0
        writer.close()

    def test_what_is_needed_stays_whatever_its_size(self, tmp_path: Path, writer: LocalLogWriter) -> None:
        assert writer.retain(Offset(7), 0, 0.0, 1e9).first == 6
        assert writer.retain(Offset(8), 0, 0.0, 1e9).first == 8
        writer.close()

    def test_what_is_too_old_goes_and_the_last_segment_stays(self, tmp_path: Path, writer: LocalLogWriter) -> None:
        assert writer.retain(Offset(20), 10**9, 5.0, 108.5).first == 8, "104 s is older than 5 s at 108.5 s"
        assert writer.retain(Offset(20), 10**9, 5.0, 1e9).first == 18
        assert len(segments(tmp_path)) == 1
        writer.append([entry(b"more")])
        assert [first for first, *_ in all_frames(tmp_path)] == [18, 20]
        writer.close()

    def test_readers_are_told_what_is_gone(self, tmp_path: Path, writer: LocalLogWriter) -> None:
        reader = LocalLogReader(tmp_path)
        frames = reader.read(P0, Offset(0), Offset(20))
        assert next(frames).first == 0
        writer.retain(Offset(10), 0, 0.0, 1e9)
        with pytest.raises(OffsetGone, match="starts at offset 10; offset 2 was removed"):
            list(frames)
        with pytest.raises(OffsetGone):
            reader.read(P0, Offset(9), Offset(20))
        assert reader.starts() == {P0: 10}
        assert [frame.first for frame in reader.read(P0, Offset(10), Offset(20))] == [10, 12, 14, 16, 18]
        reader.close()
        writer.close()

    def test_a_read_under_way_is_told_even_when_another_has_looked_since(
        self, tmp_path: Path, writer: LocalLogWriter
    ) -> None:
        reader = LocalLogReader(tmp_path)
        frames = reader.read(P0, Offset(0), Offset(20))
        next(frames)
        writer.append([entry(b"x" * 1000)])
        writer.retain(Offset(10), 0, 0.0, 1e9)
        assert len(list(reader.read(P0, Offset(10), Offset(21)))) == 6
        with pytest.raises(OffsetGone):
            list(frames)
        reader.close()
        writer.close()

    def test_what_was_removed_stays_removed_and_counted(self, tmp_path: Path, writer: LocalLogWriter) -> None:
        writer.retain(Offset(10), 0, 0.0, 1e9)
        writer.close()
        again = LocalLogWriter(tmp_path, P0)
        assert again.append([entry(b"next")]) == [20]
        again.close()
        reader = LocalLogReader(tmp_path)
        assert reader.counts() == Counts(examples=21)
        assert reader.starts() == {P0: 10}
        with pytest.raises(OffsetGone):
            reader.read(P0, Offset(9), Offset(20))
        reader.close()


class TestFailingDisk:
    """Faults are put into the system calls: what cannot be had from a healthy disk."""

    def test_after_a_failed_fsync_the_writer_is_dead(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        writer = LocalLogWriter(tmp_path, P0)
        writer.append([entry(b"good")])

        def fail(fd: int) -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        with monkeypatch.context() as patch:
            patch.setattr(os, "fdatasync", fail)
            with pytest.raises(LogUnavailable, match="fsync failed"):
                writer.append([entry(b"unknown")])
        reader = LocalLogReader(tmp_path)
        assert reader.ends() == {P0: 1}
        for _ in range(2):
            with pytest.raises(LogUnavailable, match="until it is opened again"):
                writer.append([entry(b"later")])
        with pytest.raises(LogUnavailable):
            writer.retain(Offset(1), 0, 0.0, 1e9)
        writer.close()
        again = LocalLogWriter(tmp_path, P0)
        assert again.append([entry(b"after")]) == [reader.ends()[P0] - 1]
        assert [payload for *_, payload in all_frames(tmp_path)][::2] == [b"good", b"after"]
        again.close()
        reader.close()

    def test_a_write_cut_short_by_a_full_disk_is_taken_back(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        writer = LocalLogWriter(tmp_path, P0)
        writer.append([entry(b"good")])
        size = (tmp_path / "0" / segments(tmp_path)[0]).stat().st_size
        real = os.pwritev
        calls = 0

        def fill_up(fd: int, buffers: list[bytes], byte: int) -> int:
            nonlocal calls
            calls += 1
            if calls == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(fd, [b"".join(buffers)[:50]], byte)

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwritev", fill_up)
            with pytest.raises(LogUnavailable, match="No space left"):
                writer.append([entry(b"x" * 100), entry(b"y" * 100)])
        assert (tmp_path / "0" / segments(tmp_path)[0]).stat().st_size == size
        assert writer.append([entry(b"again")]) == [1]
        writer.close()
        assert [payload for *_, payload in all_frames(tmp_path)] == [b"good", b"again"]

    def test_writes_that_stop_halfway_go_on(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        writer = LocalLogWriter(tmp_path, P0)
        real = os.pwritev

        def write_little(fd: int, buffers: list[bytes], byte: int) -> int:
            return real(fd, [b"".join(buffers)[:7]], byte)

        with monkeypatch.context() as patch:
            patch.setattr(os, "pwritev", write_little)
            writer.append([entry(b"abc", b"def" * 20), entry(b"x" * 33, b"")])
        writer.close()
        assert [payload for *_, payload in all_frames(tmp_path)] == [b"abc" + b"def" * 20, b"x" * 33]
