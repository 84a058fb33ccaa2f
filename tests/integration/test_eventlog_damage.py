"""What is not as it was written: a torn tail is cut and said, everything else is an error that names file and byte."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.errors import LogCorrupt
from penstock.eventlog.local import LocalLogReader, LocalLogWriter
from penstock.events import Offset, Partition
from penstock.testing.log_conformance import P0, entry


def write(folder: Path, appends: list[list[bytes]], segment_bytes: int = 1 << 26) -> None:
    writer = LocalLogWriter(folder, P0, segment_bytes=segment_bytes)
    for payloads in appends:
        writer.append([entry(payload) for payload in payloads])
    writer.close()


def last_segment(folder: Path) -> Path:
    return max((folder / "0").glob("*.log"))


def flip(path: Path, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 0x10
    path.write_bytes(content)


def payloads(folder: Path) -> list[bytes]:
    reader = LocalLogReader(folder)
    try:
        return [bytes(frame.payload) for frame in reader.read(P0, Offset(0), reader.ends()[P0])]
    finally:
        reader.close()


FRAMES = [[b"a" * 100], [b"b" * 100], [b"c" * 100]]
HEADER = 72
FRAME = 40 + 104


@pytest.mark.parametrize("garbage", [b"\0" * 5000, b"PFRM", b"\xff" * 77, b"PFRM" + b"\x07" * 400])
def test_bytes_behind_the_end_are_cut_and_counted(tmp_path: Path, garbage: bytes) -> None:
    write(tmp_path, FRAMES)
    with last_segment(tmp_path).open("ab") as file:
        file.write(garbage)
    writer = LocalLogWriter(tmp_path, P0)
    assert writer.tail_cut_bytes == len(garbage)
    assert writer.append([entry(b"d")]) == [3]
    writer.close()
    assert payloads(tmp_path) == [b"a" * 100, b"b" * 100, b"c" * 100, b"d"]
    again = LocalLogWriter(tmp_path, P0)
    assert again.tail_cut_bytes == 0
    again.close()


@pytest.mark.parametrize("mark", ["missing", "damaged", "empty"])
def test_without_a_mark_the_end_is_found_from_the_segments(tmp_path: Path, mark: str) -> None:
    write(tmp_path, FRAMES, segment_bytes=300)
    path = tmp_path / "0" / "mark"
    if mark == "missing":
        path.unlink()
    else:
        path.write_bytes(b"\xff" * 1024 if mark == "damaged" else b"")
    writer = LocalLogWriter(tmp_path, P0)
    assert (writer.end(), writer.tail_cut_bytes) == (3, 0)
    writer.append([entry(b"d")])
    writer.close()
    assert payloads(tmp_path)[2:] == [b"c" * 100, b"d"]


def test_an_old_mark_hides_nothing_that_was_acknowledged_after_it(tmp_path: Path) -> None:
    write(tmp_path, FRAMES[:1], segment_bytes=300)
    old = (tmp_path / "0" / "mark").read_bytes()
    write(tmp_path, FRAMES[1:] * 5, segment_bytes=300)
    before = payloads(tmp_path)
    (tmp_path / "0" / "mark").write_bytes(old)
    write(tmp_path, [])
    assert payloads(tmp_path) == before
    assert len(before) == 11


def test_a_torn_append_is_cut_at_its_first_bad_frame(tmp_path: Path) -> None:
    write(tmp_path, FRAMES)
    mark = (tmp_path / "0" / "mark").read_bytes()
    write(tmp_path, [[b"d" * 100, b"e" * 100, b"f" * 100]])
    (tmp_path / "0" / "mark").write_bytes(mark)
    flip(last_segment(tmp_path), HEADER + 4 * FRAME + 60)
    writer = LocalLogWriter(tmp_path, P0)
    assert (writer.end(), writer.tail_cut_bytes) == (4, 2 * FRAME)
    writer.close()


def test_a_bad_frame_in_front_of_a_later_append_is_no_torn_tail(tmp_path: Path) -> None:
    write(tmp_path, FRAMES)
    mark = (tmp_path / "0" / "mark").read_bytes()
    write(tmp_path, [[b"d" * 100, b"e" * 100], [b"f" * 100]])
    (tmp_path / "0" / "mark").write_bytes(mark)
    path = last_segment(tmp_path)
    flip(path, HEADER + 4 * FRAME + 60)
    damaged = path.read_bytes()
    with pytest.raises(LogCorrupt, match=f"{path.name} at byte {HEADER + 4 * FRAME}: "):
        LocalLogWriter(tmp_path, P0)
    assert path.read_bytes() == damaged


@pytest.mark.parametrize("within", [0, 3, 5, 9, 13, 17, 25, 33, 36, 50, 143])
def test_a_flipped_bit_in_the_middle_is_found_wherever_it_is(tmp_path: Path, within: int) -> None:
    write(tmp_path, FRAMES)
    path = last_segment(tmp_path)
    flip(path, HEADER + FRAME + within)
    reader = LocalLogReader(tmp_path)
    frames = reader.read(P0, Offset(0), Offset(3))
    assert bytes(next(frames).payload) == b"a" * 100
    with pytest.raises(LogCorrupt, match=f"{path} at byte {HEADER + FRAME}: "):
        next(frames)
    with pytest.raises(LogCorrupt):
        list(reader.read(P0, Offset(1), Offset(2)))
    reader.close()


def test_a_whole_frame_in_another_ones_place_is_found(tmp_path: Path) -> None:
    write(tmp_path, FRAMES)
    path = last_segment(tmp_path)
    content = path.read_bytes()
    path.write_bytes(content[: HEADER + FRAME] + content[HEADER : HEADER + FRAME] + content[HEADER + 2 * FRAME :])
    reader = LocalLogReader(tmp_path)
    with pytest.raises(LogCorrupt, match=f"at byte {HEADER + FRAME}: .* begins with offset 0, not 1"):
        list(reader.read(P0, Offset(0), Offset(3)))
    reader.close()


def test_a_bad_frame_in_an_earlier_segment_is_no_torn_tail_even_behind_an_old_mark(tmp_path: Path) -> None:
    two_frames = HEADER + 2 * FRAME
    write(tmp_path, [[b"a" * 100]], segment_bytes=two_frames)
    mark = (tmp_path / "0" / "mark").read_bytes()
    write(tmp_path, [[b"b" * 100], [b"c" * 100]], segment_bytes=two_frames)
    (tmp_path / "0" / "mark").write_bytes(mark)
    earlier = tmp_path / "0" / f"{0:020d}.log"
    flip(earlier, HEADER + FRAME + 50)
    with pytest.raises(LogCorrupt, match=f"{earlier.name} at byte {HEADER + FRAME}: "):
        LocalLogWriter(tmp_path, P0)


@pytest.mark.parametrize("byte", [0, 9, 13, 17, 25, 33, 57, 64])
def test_a_flipped_bit_in_a_segments_header_is_found(tmp_path: Path, byte: int) -> None:
    write(tmp_path, FRAMES)
    flip(last_segment(tmp_path), byte)
    with pytest.raises(LogCorrupt):
        LocalLogWriter(tmp_path, P0)
    reader = LocalLogReader(tmp_path)
    with pytest.raises(LogCorrupt):
        list(reader.read(P0, Offset(0), Offset(3)))
    reader.close()


def test_a_durable_frame_that_was_cut_off_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, FRAMES)
    path = last_segment(tmp_path)
    path.write_bytes(path.read_bytes()[:-FRAME])
    with pytest.raises(LogCorrupt, match=f"{path.name} at byte {HEADER + 2 * FRAME}: "):
        LocalLogWriter(tmp_path, P0)
    reader = LocalLogReader(tmp_path)
    with pytest.raises(LogCorrupt):
        list(reader.read(P0, Offset(0), Offset(3)))
    reader.close()


def test_a_missing_segment_in_the_middle_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, FRAMES, segment_bytes=100)
    (tmp_path / "0" / f"{1:020d}.log").unlink()
    with pytest.raises(LogCorrupt, match=f"{2:020d}.log at byte 0: .*offset 1, is missing"):
        LocalLogWriter(tmp_path, P0)
    reader = LocalLogReader(tmp_path)
    with pytest.raises(LogCorrupt, match="ends at offset 1, and the next segment begins with offset 2"):
        list(reader.read(P0, Offset(0), Offset(3)))
    with pytest.raises(LogCorrupt):
        list(reader.read(P0, Offset(1), Offset(3)))
    reader.close()


def test_a_segment_that_goes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, FRAMES, segment_bytes=100)
    reader = LocalLogReader(tmp_path)
    frames = reader.read(P0, Offset(0), Offset(3))
    next(frames)
    (tmp_path / "0" / f"{1:020d}.log").unlink()
    with pytest.raises(LogCorrupt, match=f"{1:020d}.log .*missing"):
        next(frames)
    reader.close()


def test_a_sealed_segment_that_was_cut_short_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, [[b"a" * 100], [b"b" * 100], [b"c" * 100]], segment_bytes=HEADER + 2 * FRAME)
    path = min((tmp_path / "0").glob("*.log"))
    path.write_bytes(path.read_bytes()[:-FRAME])
    reader = LocalLogReader(tmp_path)
    with pytest.raises(LogCorrupt, match=f"{path.name} at byte {HEADER + FRAME}: "):
        list(reader.read(P0, Offset(0), Offset(3)))
    reader.close()


@pytest.mark.parametrize("lost", ["last", "all"])
def test_segments_that_the_mark_knows_and_that_are_gone_are_an_error(tmp_path: Path, lost: str) -> None:
    write(tmp_path, FRAMES, segment_bytes=100)
    for path in sorted((tmp_path / "0").glob("*.log"))[-1 if lost == "last" else 0 :]:
        path.unlink()
    with pytest.raises(LogCorrupt, match="were durable"):
        LocalLogWriter(tmp_path, P0)


@pytest.mark.parametrize("content", [None, b"", b"many"])
def test_a_lost_incarnation_is_an_error(tmp_path: Path, content: bytes | None) -> None:
    write(tmp_path, FRAMES)
    path = tmp_path / "0" / "incarnation"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(LogCorrupt, match="incarnation"):
        LocalLogWriter(tmp_path, P0)


def test_the_folder_of_another_partition_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, FRAMES)
    (tmp_path / "0").rename(tmp_path / "1")
    with pytest.raises(LogCorrupt, match="belongs to partition 0, not 1"):
        LocalLogWriter(tmp_path, Partition(1))


def test_a_segment_that_was_being_made_is_made_anew(tmp_path: Path) -> None:
    write(tmp_path, FRAMES)
    (tmp_path / "0" / f"{3:020d}.log.tmp").write_bytes(b"PENST")
    writer = LocalLogWriter(tmp_path, P0)
    assert (writer.end(), writer.tail_cut_bytes) == (3, 0)
    assert not list((tmp_path / "0").glob("*.tmp"))
    writer.close()
