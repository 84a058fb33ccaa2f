"""A partition with erased frames: what was erased is a gap in it and nowhere in its bytes, all else is as it was."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import LogCorrupt
from penstock.eventlog.inspection import inspect_partition
from penstock.eventlog.interface import Entry, Frame
from penstock.eventlog.local import LocalLogReader, LocalLogWriter
from penstock.eventlog.rewriting import rewrite_partition
from penstock.eventlog.segment import SegmentFile, segment_bases, segment_path
from penstock.events import Kind, Offset
from penstock.testing.log_conformance import P0, entry

SEGMENT_BYTES = 700


def told(number: int) -> bytes:
    """A payload that is found by its bytes."""
    return b"<event %06d>" % number


def all_of(folder: Path) -> list[Frame]:
    reader = LocalLogReader(folder)
    try:
        return list(reader.read(P0, Offset(0), reader.ends()[P0]))
    finally:
        reader.close()


def change_of(erased: set[int]) -> object:
    """A change of frames of some events each, whose payload names them one after the other."""

    def change(frame: Frame) -> Sequence[Entry] | None:
        offsets = range(frame.first, frame.first + frame.count)
        if erased.isdisjoint(offsets):
            return None
        return [
            Entry(kind=frame.kind, count=1, payload=(), erased=True)
            if offset in erased
            else Entry(kind=frame.kind, count=1, payload=(told(offset),))
            for offset in offsets
        ]

    return change


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=12), st.data())
def test_offsets_counts_and_groups_stay_and_no_byte_of_an_erased_event_does(
    appends: list[list[int]], data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        writer = LocalLogWriter(folder / "log", P0, segment_bytes=SEGMENT_BYTES)
        at = 0
        for sizes in appends:
            entries = []
            for size in sizes:
                kind = Kind(1 + at % 3)
                payload = b"".join(told(offset) for offset in range(at, at + size))
                entries.append(Entry(kind=kind, count=size, payload=(payload,)))
                at += size
            writer.append(entries)
        erased = data.draw(st.sets(st.integers(0, at - 1)))
        before = all_of(folder / "log")
        rewrite_partition(folder / "log" / "0", folder / "new" / "0", P0, change_of(erased))  # type: ignore[arg-type]
        writer.close()

        again = LocalLogWriter(folder / "new", P0, segment_bytes=SEGMENT_BYTES)
        assert (again.tail_cut_bytes, again.end()) == (0, at)
        reader, old = LocalLogReader(folder / "new"), LocalLogReader(folder / "log")
        assert reader.counts() == old.counts()
        frames = list(reader.read(P0, Offset(0), Offset(at)))
        kept = [offset for frame in frames for offset in range(frame.first, frame.first + frame.count)]
        assert kept == [offset for offset in range(at) if offset not in erased]
        times = {o: (f.time, f.kind) for f in before for o in range(f.first, f.first + f.count)}
        for frame in frames:
            assert bytes(frame.payload) == b"".join(told(o) for o in range(frame.first, frame.first + frame.count))
            assert times[frame.first] == (frame.time, frame.kind)
        for start in range(at):
            from_there = [f for f in reader.read(P0, Offset(start), Offset(at)) if f.first + f.count > start]
            assert [f.first for f in from_there] == [f.first for f in frames if f.first + f.count > start]
        reader.close()
        old.close()
        content = b"".join(path.read_bytes() for path in (folder / "new" / "0").iterdir())
        assert [offset for offset in range(at) if told(offset) in content] == kept
        seen = inspect_partition(folder / "new", P0)
        assert (seen.end, seen.events, seen.erased) == (at, len(kept), len(erased))
        # The groups of appends say what may be a torn tail, so they must be as they were.
        assert groups(folder / "new" / "0") == groups(folder / "log" / "0")
        assert again.append([entry(b"more")]) == [at]
        again.close()


def groups(folder: Path) -> set[int]:
    """Offsets at which appends begin."""
    found = set()
    for base in segment_bases(folder):
        file, byte, first = SegmentFile(folder, base), 72, base
        while byte < file.size():
            frame, after = file.frame_at(byte, file.size(), first)
            found.add(first - file.into_group(byte, first))
            byte, first = after, Offset(first + frame.count)
    return found


def test_what_was_erased_stays_so_when_it_is_rewritten_again_and_a_flipped_bit_is_found(tmp_path: Path) -> None:
    writer = LocalLogWriter(tmp_path / "a", P0)
    writer.append([entry(told(0)), entry(told(1))])
    writer.close()
    assert rewrite_partition(tmp_path / "a" / "0", tmp_path / "b" / "0", P0, change_of({0})) == 1  # type: ignore[arg-type]
    assert rewrite_partition(tmp_path / "b" / "0", tmp_path / "c" / "0", P0, change_of({0})) == 0  # type: ignore[arg-type]
    LocalLogWriter(tmp_path / "c", P0).close()
    assert [bytes(frame.payload) for frame in all_of(tmp_path / "c")] == [told(1)]
    path = segment_path(tmp_path / "c" / "0", Offset(0))
    content = bytearray(path.read_bytes())
    content[72 + 37] ^= 1
    path.write_bytes(content)
    with pytest.raises(LogCorrupt, match="checksum"):
        all_of(tmp_path / "c")
