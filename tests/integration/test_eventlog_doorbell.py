"""Readers in other processes: they see what is durable, are woken by the doorbell, and leave nothing behind."""

from __future__ import annotations

import multiprocessing
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

import penstock.eventlog.reader as reader_module
from penstock.eventlog.doorbell import Doorbell, Doorbells, Roster, call
from penstock.eventlog.interface import Counts
from penstock.eventlog.local import LocalLogReader, LocalLogWriter
from penstock.eventlog.mark import Mark, MarkFile
from penstock.events import Offset, Partition
from penstock.testing.log_conformance import P0, entry

spawn = multiprocessing.get_context("spawn")
FOREVER_S = 3600.0


def echo_every_event(folder: Path, conn: Connection, events: int) -> None:
    """Tell of each event as soon as it is there; without a ring this would sleep for an hour. To be started on a log
    without events: its doorbell hangs before it says its pid, however late it is at the first of them."""
    reader_module._LISTEN_MAX_S = FOREVER_S
    reader = LocalLogReader(folder)
    position: dict[Partition, Offset] = {}
    assert not reader.wait(position, 0.0)
    conn.send(os.getpid())
    for _ in range(events):
        assert reader.wait(position, FOREVER_S)
        for partition, end in reader.ends().items():
            for frame in reader.read(partition, position.get(partition, Offset(0)), end):
                conn.send((partition, bytes(frame.payload)))
            position[partition] = end
    reader.close()


def sleep_until_called(folder: Path, conn: Connection) -> None:
    reader_module._LISTEN_MAX_S = FOREVER_S
    reader = LocalLogReader(folder)
    reader.wait({}, 0.0)  # hangs up its doorbell
    conn.send("ready")
    conn.send(reader.wait({}, FOREVER_S))
    reader.close()


def check_marks(folder: Path, conn: Connection) -> None:
    marks = MarkFile(folder)
    conn.send("ready")
    seen = set()
    last = 0
    while last < MARKS:
        mark = marks.read()
        if mark is None:
            continue
        if mark != mark_number(mark.end) or mark.end < last:
            conn.send(f"after {last}: {mark}")
            return
        last = mark.end
        seen.add(last)
    conn.send(len(seen))


MARKS = 60_000


def mark_number(n: int) -> Mark:
    counts = Counts(examples=n * 2, predictions=n * 3, feedback=n * 5)
    return Mark(segment=Offset(n * 7), byte=n * 11, end=Offset(n), first=Offset(n * 13), counts=counts, time=n / 2)


def test_a_reader_in_another_process_is_woken_for_each_event_and_for_a_new_partition(tmp_path: Path) -> None:
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=echo_every_event, args=(tmp_path, theirs, 40))
    process.start()
    assert ours.recv() == process.pid
    for partition in (Partition(0), Partition(3)):
        writer = LocalLogWriter(tmp_path, partition)
        for i in range(20):
            writer.append([entry(b"%d" % i)])
            assert ours.poll(60), "the reader sleeps on"
            assert ours.recv() == (partition, b"%d" % i)
        writer.close()
    process.join(60)
    assert process.exitcode == 0
    assert not list(tmp_path.glob("*doorbell-*"))


def test_the_doorbell_of_a_killed_reader_is_taken_down(tmp_path: Path) -> None:
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=echo_every_event, args=(tmp_path, theirs, 1000))
    process.start()
    writer = LocalLogWriter(tmp_path, P0)
    ours.recv()
    for _ in range(2):
        writer.append([entry(b"x")])
        ours.recv()
    assert len(list(tmp_path.glob("doorbell-*"))) == 1
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join(60)
    writer.append([entry(b"x")])
    assert not list(tmp_path.glob("doorbell-*"))
    writer.append([entry(b"x")])
    writer.close()


def test_a_doorbell_without_a_reader_found_at_opening_is_taken_down(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "doorbell-1-old")
    LocalLogWriter(tmp_path, P0).close()
    assert not list(tmp_path.glob("doorbell-*"))


def test_a_full_doorbell_does_not_hold_the_writer_up_and_still_rings(tmp_path: Path) -> None:
    roster = Roster(tmp_path)
    bell = Doorbell(tmp_path, roster)
    ringer = Doorbells(tmp_path, roster)
    for _ in range(70_000):
        ringer.ring()
    assert bell.listen(FOREVER_S)
    bell.drain()
    assert not bell.listen(0.0)
    ringer.ring()
    assert bell.listen(FOREVER_S)
    ringer.close()
    bell.close()
    roster.close()


def test_a_reader_never_sees_a_mark_half_moved_or_moving_back(tmp_path: Path) -> None:
    marks = MarkFile(tmp_path, writable=True)
    assert marks.read() is None
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=check_marks, args=(tmp_path, theirs))
    process.start()
    assert ours.recv() == "ready"
    for n in range(1, MARKS + 1):
        marks.move(mark_number(n))
    result = ours.recv()
    process.join(60)
    marks.close()
    assert isinstance(result, int), result
    assert result > 1


@pytest.mark.parametrize("slot", [0, 512])
def test_a_damaged_slot_gives_the_mark_before_it(tmp_path: Path, slot: int) -> None:
    marks = MarkFile(tmp_path, writable=True)
    for n in (1, 2):
        marks.move(mark_number(n))
    marks.close()
    path = tmp_path / "mark"
    content = bytearray(path.read_bytes())
    content[slot + 20] ^= 1
    path.write_bytes(content)
    marks = MarkFile(tmp_path)
    left = marks.read()
    marks.close()
    assert left == mark_number(1 if slot == 0 else 2)


def test_a_mark_that_was_seen_is_never_taken_back(tmp_path: Path) -> None:
    marks, reader = MarkFile(tmp_path, writable=True), MarkFile(tmp_path)
    for n in (1, 2):
        marks.move(mark_number(n))
    assert reader.read() == mark_number(2)
    with (tmp_path / "mark").open("r+b") as file:
        file.write(b"half of the third mark")
    assert reader.read() == mark_number(2)
    marks.close()
    reader.close()


def test_a_reader_without_news_sleeps_until_somebody_calls(tmp_path: Path) -> None:
    ours, theirs = spawn.Pipe()
    sleeper = spawn.Process(target=sleep_until_called, args=(tmp_path, theirs))
    sleeper.start()
    assert ours.poll(60)
    assert ours.recv() == "ready"
    call(tmp_path)
    assert ours.poll(60), "the reader sleeps on"
    assert ours.recv() is False
    sleeper.join()
