"""The memory twin keeps the contract of the log on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.errors import OffsetGone
from penstock.events import Offset
from penstock.testing.log_conformance import P0, LogConformance, entry
from penstock.testing.memory_log import MemoryLog


class TestMemoryLog(LogConformance):
    def open_log(self, folder: Path) -> MemoryLog:
        return MemoryLog()


def test_each_opening_has_its_own_incarnation() -> None:
    log = MemoryLog()
    first = log.writer()
    first.close()
    assert log.writer().incarnation > first.incarnation


def test_the_recent_frames_hold_at_least_so_many_events() -> None:
    writer = MemoryLog().writer()
    writer.append([entry(count=10) for _ in range(5)])
    assert [frame.first for frame in writer.recent(11)] == [30, 40]
    assert [frame.first for frame in writer.recent(1000)] == [0, 10, 20, 30, 40]


def test_removed_offsets_are_gone() -> None:
    log = MemoryLog()
    writer, reader = log.writer(), log.reader()
    writer.append([entry(count=10) for _ in range(3)])
    assert writer.remove_before(Offset(15)) == 10
    with pytest.raises(OffsetGone):
        reader.read(P0, Offset(9), Offset(20))
    assert [frame.first for frame in reader.read(P0, Offset(10), Offset(30))] == [10, 20]
    assert reader.starts() == {P0: 10}
