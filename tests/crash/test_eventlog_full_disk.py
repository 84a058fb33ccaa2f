"""A disk that is really full: nothing is acknowledged, nothing is damaged, and room made is room used."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.errors import LogUnavailable
from penstock.eventlog.local import LocalLogReader, LocalLogWriter
from penstock.events import Offset
from penstock.testing.log_conformance import P0, entry


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs more rights; the limit on file sizes is tried instead")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(writer: LocalLogWriter, payload: bytes) -> list[Offset]:
    """Append until it is refused, and return what was acknowledged."""
    acknowledged: list[Offset] = []
    while True:
        try:
            acknowledged += writer.append([entry(payload)])
        except LogUnavailable as error:
            if "No space left" not in str(error) and "File too large" not in str(error):
                raise
            return acknowledged


def stored(folder: Path) -> list[int]:
    reader = LocalLogReader(folder)
    try:
        return [frame.first for frame in reader.read(P0, Offset(0), reader.ends()[P0])]
    finally:
        reader.close()


@pytest.mark.parametrize("segment_bytes", [1 << 26, 100_000])
def test_a_full_disk_refuses_and_goes_on_when_there_is_room(small_disk: Path, segment_bytes: int) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(500_000))
    writer = LocalLogWriter(small_disk / "log", P0, segment_bytes=segment_bytes)
    acknowledged = fill(writer, bytes(30_000))
    assert fill(writer, bytes(30_000)) == []
    assert stored(small_disk / "log") == acknowledged
    ballast.unlink()
    acknowledged += writer.append([entry(bytes(30_000)), entry(b"more")])
    assert acknowledged == list(range(len(acknowledged)))
    writer.close()
    again = LocalLogWriter(small_disk / "log", P0)
    assert again.tail_cut_bytes == 0
    again.close()
    assert stored(small_disk / "log") == acknowledged


def test_opening_on_a_full_disk_is_refused_and_works_when_there_is_room(small_disk: Path) -> None:
    writer = LocalLogWriter(small_disk / "log", P0)
    acknowledged = fill(writer, bytes(50_000))
    writer.close()
    ballast = small_disk / "ballast"
    with pytest.raises(OSError, match="No space left"):
        ballast.write_bytes(bytes(1 << 20))
    with pytest.raises(LogUnavailable, match="No space left"):
        LocalLogWriter(small_disk / "log", P0)
    ballast.unlink()
    LocalLogWriter(small_disk / "log", P0).close()
    assert stored(small_disk / "log") == acknowledged


def test_a_limit_on_file_sizes_refuses_the_append_that_crosses_it(tmp_path: Path) -> None:
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    writer = LocalLogWriter(tmp_path, P0)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
        acknowledged = fill(writer, bytes(30_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert len(acknowledged) == 6
    size = os.stat(tmp_path / "0" / f"{0:020d}.log").st_size
    assert size < 190_000, "the part that was written is still there"
    acknowledged += writer.append([entry(bytes(30_000))])
    writer.close()
    assert stored(tmp_path) == acknowledged
