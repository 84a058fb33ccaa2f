"""Group commit: order, sharing, bounds and errors, on the memory log."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest

from penstock.errors import LogUnavailable, Overloaded
from penstock.eventlog.commit import GroupCommit
from penstock.eventlog.interface import Entry
from penstock.events import Offset
from penstock.testing.log_conformance import P0, entry
from penstock.testing.memory_log import MemoryLog, MemoryLogWriter


class SlowWriter(MemoryLogWriter):
    """A writer whose appends wait at a gate, as they would for the disk, and fail when told to."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__(log, P0)
        self.gate = threading.Event()
        self.began = threading.Semaphore(0)
        self.groups: list[int] = []
        self.failure: Exception | None = None

    def append(self, entries: Sequence[Entry]) -> list[Offset]:
        self.groups.append(len(entries))
        self.began.release()
        assert self.gate.wait(60)
        if self.failure is not None:
            raise self.failure
        return super().append(entries)


@contextmanager
def committing(writer: MemoryLogWriter, max_pending_bytes: int = 1 << 20) -> Iterator[GroupCommit]:
    commit = GroupCommit(writer, max_pending_bytes=max_pending_bytes)
    try:
        yield commit
    finally:
        if isinstance(writer, SlowWriter):
            writer.gate.set()
        commit.close()


def ignore(_: Offset | Exception) -> None:
    """For entries whose fate is looked at elsewhere."""


def test_what_comes_while_the_disk_is_busy_shares_the_next_append() -> None:
    writer = SlowWriter(MemoryLog())
    results: list[Offset | Exception] = []
    with committing(writer) as commit:
        commit.submit(entry(b"0"), results.append)
        assert writer.began.acquire(timeout=60)
        for i in range(1, 6):
            commit.submit(entry(b"%d" % i, count=2), results.append)
        assert results == []
        writer.gate.set()
        commit.flush()
        assert results == [0, 1, 3, 5, 7, 9]
    assert writer.groups == [1, 5]


def test_one_append_is_bounded_in_bytes() -> None:
    writer = SlowWriter(MemoryLog())
    with committing(writer, 1 << 30) as commit:
        commit.submit(entry(b"first"), ignore)
        assert writer.began.acquire(timeout=60)
        for _ in range(5):
            commit.submit(entry(b"x" * (3 << 20)), ignore)
    assert writer.groups == [1, 2, 2, 1]


def test_every_entry_of_many_threads_is_decided_once_and_in_order_for_each() -> None:
    log = MemoryLog()
    writer = log.writer()
    given: list[list[Offset | Exception]] = [[] for _ in range(8)]
    with committing(writer, 1 << 30) as commit:

        def submit(thread: int) -> None:
            for i in range(200):
                commit.submit(entry(b"%d %d" % (thread, i)), given[thread].append)

        threads = [threading.Thread(target=submit, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        commit.flush()
    stored = {frame.first: bytes(frame.payload) for frame in log.reader().read(P0, Offset(0), Offset(1600))}
    assert len(stored) == 1600
    for thread, offsets in enumerate(given):
        assert [stored[offset] for offset in offsets if not isinstance(offset, Exception)] == [
            b"%d %d" % (thread, i) for i in range(200)
        ]


def test_beyond_the_bound_submissions_are_refused_until_there_is_room() -> None:
    writer = SlowWriter(MemoryLog())
    with committing(writer, max_pending_bytes=100) as commit:
        commit.submit(entry(b"x" * 90), ignore)
        with pytest.raises(Overloaded):
            commit.submit(entry(b"x" * 11), ignore)
        commit.submit(entry(b"x" * 10), ignore)
        assert commit.pending_bytes == 100
        writer.gate.set()
        commit.flush()
        assert commit.pending_bytes == 0
        commit.submit(entry(b"x" * 500), ignore)
        commit.flush()
    assert writer.end() == 3


def test_a_failed_append_is_told_to_everybody_in_it_and_the_next_gets_its_try() -> None:
    writer = SlowWriter(MemoryLog())
    writer.failure = LogUnavailable(folder="memory", reason="no space")
    writer.gate.set()
    results: list[Offset | Exception] = []
    with committing(writer) as commit:
        commit.submit(entry(), results.append)
        commit.flush()
        writer.failure = None
        commit.submit(entry(), results.append)
        commit.flush()
    assert isinstance(results[0], LogUnavailable)
    assert results[1:] == [0]


def test_a_callback_that_raises_is_logged_and_hurts_nobody_else(caplog: pytest.LogCaptureFixture) -> None:
    def raise_closed(_: Offset | Exception) -> None:
        raise ConnectionError("the client has gone")

    writer = SlowWriter(MemoryLog())
    results: list[Offset | Exception] = []
    with committing(writer) as commit, caplog.at_level(logging.ERROR):
        for done in (results.append, raise_closed, results.append):
            commit.submit(entry(), done)
        writer.gate.set()
        commit.flush()
    assert results == [0, 2]
    assert [record.message for record in caplog.records] == ["a callback of a committed entry failed"]


def test_closing_appends_what_is_pending_and_then_takes_nothing() -> None:
    writer = SlowWriter(MemoryLog())
    results: list[Offset | Exception] = []
    with committing(writer) as commit:
        for _ in range(3):
            commit.submit(entry(), results.append)
    assert results == [0, 1, 2]
    with pytest.raises(LogUnavailable):
        commit.submit(entry(), results.append)


def test_an_entry_that_no_frame_can_hold_is_refused_alone() -> None:
    with committing(MemoryLog().writer()) as commit, pytest.raises(ValueError, match="at least one event"):
        commit.submit(entry(b"x", count=0), ignore)
