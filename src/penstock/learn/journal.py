"""The step journal: what the learner took and what was decided, on disk before anybody sees the result.

A file is a magic number and then frames: a mark, the payload's length, its CRC-32 and the payload, an array of entries
(MessagePack) that became durable together. Every frame is followed by fdatasync, so that only the last one can be torn
by a crash; it is cut when the journal is opened. A bad frame that has a good one behind it is damage, and an error.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import msgspec

from penstock.errors import StepsCorrupt, StepsUnavailable
from penstock.eventlog.folders import lock_folder, sync_folder
from penstock.learn.steps import Reached, Step, nothing

MAGIC = b"PENSTEP\x02"
MARK = b"\xf1STP"
_FRAME = struct.Struct("<4sII")
PAYLOAD_MAX_BYTES = 1 << 24
"""No step is near 16 MiB; a length beyond it is damage and not a reason to allocate memory."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Step]).decode


class StepJournal:
    """The one writer of a service's journal; also what holds the learner's folder against a second learner."""

    def __init__(self, folder: Path, reached: Reached = nothing) -> None:
        """Raises FolderInUse while another process writes here, and StepsCorrupt."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.bytes_cut = 0
        """What was cut from the end when the journal was opened."""
        self._reached = reached
        self._broken = False
        self._fd = -1
        self._lock = lock_folder(folder)
        try:
            self.last = self._open()
            """The number of the last entry; 0 before the first."""
        except BaseException:
            self.close()
            raise

    def append(self, *steps: Step) -> None:
        """Make the entries durable, all or none. Raises StepsUnavailable, and then every later call does, too."""
        if self._broken:
            raise StepsUnavailable(folder=self.folder, reason="an earlier write failed")
        for before, step in enumerate(steps, self.last):
            if step.number != before + 1:
                raise ValueError(f"step {step.number} cannot follow step {before}")
        payload = _encode(steps)
        frame = _FRAME.pack(MARK, len(payload), zlib.crc32(payload)) + payload
        self._reached("step.record")
        try:
            written = os.write(self._fd, frame)
            if written != len(frame):
                raise OSError(f"only {written} of {len(frame)} bytes were written")
            self._reached("step.written")
            os.fdatasync(self._fd)
        except OSError as error:
            self._broken = True
            raise StepsUnavailable(folder=self.folder, reason=str(error)) from error
        self.last += len(steps)
        self._reached("step.recorded")

    def rotate(self, bytes_min: int = 0) -> None:
        """Begin a new file with the next entry, so that older ones can be removed whole; not while the newest has fewer
        bytes than these."""
        path = self.folder / _name(self.last + 1)
        if not path.exists() and os.fstat(self._fd).st_size >= bytes_min:
            try:
                self._create(path)
            except OSError as error:
                self._broken = True
                raise StepsUnavailable(folder=self.folder, reason=str(error)) from error

    def past(self) -> tuple[int, int]:
        """The number of the first entry that is kept, and the bytes of all."""
        files = _files(self.folder)
        return _first(files[0]), sum(path.stat().st_size for path in files)

    def forget(self, through: int) -> None:
        """Remove the files in which no entry has a number above ``through``; the newest file always stays."""
        files = _files(self.folder)
        for path, following in pairwise(files):
            if _first(following) - 1 <= through:
                self._reached("steps.forget")
                path.unlink()

    def entries(self, after: int = 0) -> Iterator[Step]:
        """The entries with higher numbers, in order."""
        return read_steps(self.folder, after)

    def close(self) -> None:
        for fd in (self._fd, self._lock):
            if fd >= 0:
                os.close(fd)
        self._fd = self._lock = -1

    def _open(self) -> int:
        """Cut a torn tail, open the newest file for appending, and say which entry is the last."""
        files = _files(self.folder)
        if not files:
            self._create(self.folder / _name(1))
            return 0
        newest = files[-1]
        data = newest.read_bytes()
        if data[: len(MAGIC)] != MAGIC[: len(data)]:
            raise StepsCorrupt(file=newest, byte=0, reason="it does not begin like a step journal")
        if len(data) < len(MAGIC):
            # The process ended while it created the file, before anything could be appended to it.
            newest.unlink()
            self._create(newest)
            return _first(newest) - 1
        last, end = _first(newest) - 1, len(MAGIC)
        for steps, after in _frames(newest, data, strict=True):
            last, end = steps[-1].number, after
        self._fd = os.open(newest, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        if end < len(data):
            self.bytes_cut = len(data) - end
            os.ftruncate(self._fd, end)
            os.fsync(self._fd)
        return last

    def _create(self, path: Path) -> None:
        self._reached("steps.create")
        fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        if self._fd >= 0:
            os.close(self._fd)
        self._fd = fd
        os.write(fd, MAGIC)
        self._reached("steps.created")
        os.fsync(fd)
        sync_folder(self.folder)


def begin_journal(folder: Path, first: int) -> None:
    """Make an empty journal whose first entry will have this number."""
    folder.mkdir(parents=True)
    path = folder / _name(first)
    with path.open("xb") as file:
        file.write(MAGIC)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


class RecordedSteps:
    """A journal that somebody else may be writing to, as far as it goes now."""

    def __init__(self, folder: Path) -> None:
        """Raises StepsCorrupt."""
        self.folder = folder
        files = _files(folder)
        newest = _first(files[-1]) - 1 if files else 0
        self.last = max([newest, *(step.number for step in read_steps(folder, newest, strict=True))])

    def entries(self, after: int = 0) -> Iterator[Step]:
        """The entries with higher numbers, in order. Raises StepsCorrupt."""
        for step in read_steps(self.folder, after, strict=True):
            if step.number > self.last:
                return
            yield step


def read_steps(folder: Path, after: int = 0, *, strict: bool = False) -> Iterator[Step]:
    """The durable entries with numbers above ``after``, in order, in whatever process; a torn tail is not looked at.

    Raises StepsCorrupt where bytes are not what was written or an entry is missing. ``strict`` looks behind a bad frame
    at the end for a whole one, which makes it damage; while somebody writes, a frame is bad before it is whole."""
    files = _files(folder)
    wanted = None
    for index, path in enumerate(files):
        newest = index == len(files) - 1
        if not newest and _first(files[index + 1]) <= after + 1:
            continue
        data = path.read_bytes()
        if data[: len(MAGIC)] != MAGIC and not (newest and len(data) < len(MAGIC)):
            raise StepsCorrupt(file=path, byte=0, reason="it does not begin like a step journal")
        for steps, end in _frames(path, data, strict=strict):
            for step in steps:
                if wanted is not None and step.number != wanted:
                    raise StepsCorrupt(file=path, byte=end, reason=f"step {step.number} stands where {wanted} should")
                wanted = step.number + 1
                if step.number > after:
                    yield step
        if not newest and wanted != _first(files[index + 1]):
            raise StepsCorrupt(file=path, byte=len(data), reason=f"it ends before step {_first(files[index + 1]) - 1}")


def torn_tail(folder: Path) -> tuple[Path, int, int] | None:
    """Where an entry that was not finished stands in the newest file, and how long it is; None where there is none.

    Raises StepsCorrupt."""
    files = _files(folder)
    if not files:
        return None
    data = files[-1].read_bytes()
    end = min(len(MAGIC), len(data))
    if len(data) >= len(MAGIC):
        for _, after in _frames(files[-1], data, strict=True):
            end = after
    return (files[-1], end, len(data) - end) if end < len(data) else None


def _frames(path: Path, data: bytes, strict: bool) -> Iterator[tuple[list[Step], int]]:
    """Each frame's entries with the byte behind them, up to a torn tail. ``strict`` looks behind the first bad frame
    for a good one."""
    at = len(MAGIC)
    while at < len(data):
        found = _frame_at(data, at)
        if found is None:
            behind = data.find(MARK, at + 1)
            while strict and behind >= 0:
                if _frame_at(data, behind) is not None:
                    raise StepsCorrupt(file=path, byte=at, reason="an entry is broken and whole ones follow it")
                behind = data.find(MARK, behind + 1)
            return
        steps, at = found
        yield steps, at


def _frame_at(data: bytes, at: int) -> tuple[list[Step], int] | None:
    start = at + _FRAME.size
    if start > len(data):
        return None
    mark, length, checksum = _FRAME.unpack_from(data, at)
    if mark != MARK or length > PAYLOAD_MAX_BYTES or start + length > len(data):
        return None
    payload = data[start : start + length]
    if zlib.crc32(payload) != checksum:
        return None
    try:
        steps = _decode(payload)
    except msgspec.MsgspecError:
        return None
    return (steps, start + length) if steps else None


def _name(first: int) -> str:
    return f"{first:020d}.steps"


def _first(path: Path) -> int:
    return int(path.stem)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.steps"))
