"""Live weights in shared memory: the newest block of a service, where every server process of the machine finds it.

One *control file* and one *data file* a service, both mapped into memory. The data file has two slots for packed
blocks; the control file has two records (each says which data file, slot, size and checksum) and two slots for the
progress. The writer always overwrites the older of the two, so that the newer is whole at every moment, wherever the
writer dies:

    control   0  magic            64  record 0      128  record 1
              8  version          4096  progress 0  4096 + 65536  progress 1
              16 time of the last report, in nanoseconds of the machine's monotonic clock
              24 share of the traffic that a second block answers, in billionths
    data      0  block 0          capacity  block 1

A reader takes the record with the higher sequence among those whose checksum is right, copies the block out and
compares the block's checksum; where the writer has overtaken it twice meanwhile, it simply looks again. A block that
outgrows its slot goes into a new data file with a higher generation in its name.

A second block that answers a share of the traffic has two such files of its own, whose names have ``-beside`` in them;
the share stands with the first, so that whoever answers from one block alone looks at nothing else.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from penstock.errors import LiveWeightsDamaged
from penstock.events import Version
from penstock.learn.block import pack, unpack
from penstock.learn.interface import Block
from penstock.learn.steps import Reached, nothing
from penstock.publish.interface import LiveReader, Progress
from penstock.publish.weights.live_files import beside_path, data_file, data_files

MAGIC = b"PSTKLV\x00\x01"
_VERSION_AT = 8
_REPORTED_AT = 16
_SHARE_AT = 24
BILLION = 1_000_000_000
_RECORDS_AT = (64, 128)
_RECORD = struct.Struct("<QQIIQI")
"""Sequence, version, generation, slot, size and CRC-32 of the block; the record's own CRC-32 follows."""
_CRC = struct.Struct("<I")
_PROGRESS_HEAD = struct.Struct("<QII")
"""Sequence, size and CRC-32 of the progress, itself followed by the CRC-32 of these."""
PROGRESS_MAX_BYTES = 65_536
"""Room for the offsets of some 5,000 partitions."""
_PROGRESS_AT = (4096, 4096 + PROGRESS_MAX_BYTES)
CONTROL_BYTES = 4096 + 2 * PROGRESS_MAX_BYTES
CAPACITY_MIN_BYTES = 64 * 1024
TRIES = 1000
"""A reader is overtaken at most a few times in a row; after so many the file is damaged, or its writer was cut off by
one."""

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Progress).decode


@dataclass(frozen=True, slots=True)
class _Record:
    sequence: int
    version: int
    generation: int
    slot: int
    size: int
    checksum: int


@dataclass(frozen=True, slots=True)
class _Told:
    """A progress as MessagePack."""

    sequence: int
    payload: bytes


_Slot = TypeVar("_Slot", _Record, _Told)


class SharedLiveWeights:
    """The learner's side. A writer that died is followed by one that goes on in the same files."""

    def __init__(self, path: Path, reached: Reached = nothing) -> None:
        self.path = path
        self._reached = reached
        path.parent.mkdir(parents=True, exist_ok=True)
        self._control = _create_control(path)
        self._version = memoryview(self._control).cast("Q")
        newest = _newest_record(self._control)
        self._sequence = newest.sequence if newest else 0
        self._generation = newest.generation if newest else 0
        self._capacity = 0
        self._data: mmap.mmap | None = None
        if newest and data_file(path, newest.generation).exists():
            self._data = _map(data_file(path, newest.generation), writable=True)
            self._capacity = len(self._data) // 2
        self._remove_other_generations()
        told = _newest_progress(self._control)
        self._progress_sequence = told.sequence if told else 0
        self._beside: SharedLiveWeights | None = None

    def publish(self, block: Block, progress: Progress) -> None:
        self._write(block)
        self.report(progress)

    def try_out(self, block: Block | None, share: float) -> None:
        if block is not None and share > 0.0:
            self._beside = self._beside or SharedLiveWeights(beside_path(self.path), self._reached)
            self._beside._write(block)
        self._version[_SHARE_AT // 8] = 0 if block is None else round(share * BILLION)
        self._reached("live.share")

    def _write(self, block: Block) -> None:
        buffers = pack(block)
        version, size, checksum = int(block.head.version), 0, 0
        for buffer in buffers:
            size += len(buffer)
            checksum = zlib.crc32(buffer, checksum)
        sequence = self._sequence + 1
        grown = self._data is None or size > self._capacity
        if grown:
            self._grow(size)
        assert self._data is not None
        slot = sequence % 2
        self._reached("live.begin")
        at = slot * self._capacity
        for buffer in buffers:
            self._data[at : at + len(buffer)] = buffer
            at += len(buffer)
        self._reached("live.block")
        record = _RECORD.pack(sequence, version, self._generation, slot, size, checksum)
        at = _RECORDS_AT[sequence % 2]
        self._control[at : at + _RECORD.size + _CRC.size] = record + _CRC.pack(zlib.crc32(record))
        self._sequence = sequence
        self._reached("live.record")
        self._version[_VERSION_AT // 8] = version
        self._reached("live.version")
        if grown:
            self._remove_other_generations()

    def report(self, progress: Progress) -> None:
        payload = _encode(progress)
        if len(payload) > PROGRESS_MAX_BYTES - _PROGRESS_HEAD.size - _CRC.size:
            raise LiveWeightsDamaged(file=self.path, reason=f"a progress of {len(payload)} bytes has no room in it")
        sequence = self._progress_sequence + 1
        head = _PROGRESS_HEAD.pack(sequence, len(payload), zlib.crc32(payload))
        whole = head + _CRC.pack(zlib.crc32(head)) + payload
        at = _PROGRESS_AT[sequence % 2]
        self._control[at : at + len(whole)] = whole
        self._progress_sequence = sequence
        self._version[_REPORTED_AT // 8] = time.monotonic_ns()
        self._reached("live.progress")

    def close(self) -> None:
        self._version.release()
        self._control.close()
        if self._data is not None:
            self._data.close()
        if self._beside is not None:
            self._beside.close()

    def _grow(self, size: int) -> None:
        """A new data file with room for half as much again. The old one stays until the record points to the new."""
        self._generation += 1
        capacity = -(-max(size + size // 2, CAPACITY_MIN_BYTES) // mmap.PAGESIZE) * mmap.PAGESIZE
        path = data_file(self.path, self._generation)
        path.unlink(missing_ok=True)
        try:
            _reserve(path, 2 * capacity)
        except OSError as error:
            raise LiveWeightsDamaged(file=path, reason=str(error)) from error
        if self._data is not None:
            self._data.close()
        self._data, self._capacity = _map(path, writable=True), capacity
        self._reached("live.grown")

    def _remove_other_generations(self) -> None:
        for path in data_files(self.path):
            if path != data_file(self.path, self._generation):
                path.unlink(missing_ok=True)


class SharedLiveReader:
    """A server's side. Before the learner's first start it answers version 0 and looks for the files at each call."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._control: mmap.mmap | None = None
        self._numbers: memoryview | None = None
        self._inode = 0
        self._data: mmap.mmap | None = None
        self._generation = 0
        self._beside: SharedLiveReader | None = None
        self._attach()

    def version(self) -> Version:
        numbers = self._numbers
        if numbers is None:
            if not self._attach():
                return Version(0)
            numbers = self._numbers
            assert numbers is not None
        return Version(numbers[1])

    def share(self) -> float:
        numbers = self._numbers
        return numbers[_SHARE_AT // 8] / BILLION if numbers is not None else 0.0

    def beside(self) -> LiveReader:
        self._beside = self._beside or SharedLiveReader(beside_path(self.path))
        return self._beside

    def block(self) -> Block | None:
        """Raises LiveWeightsDamaged when no whole block is found in many tries."""
        packed = self.packed()
        return None if packed is None else unpack(packed)

    def packed(self) -> bytes | None:
        """The newest block's bytes, as `learn.block.pack` made them."""
        if self._control is None and not self._attach():
            return None
        assert self._control is not None
        record = None
        for attempt in range(TRIES):
            record = _newest_record(self._control)
            if record is None and _is_untouched(self._control):
                return None
            if record is not None and self._map_generation(record.generation):
                assert self._data is not None
                start = record.slot * (len(self._data) // 2)
                packed = self._data[start : start + record.size]
                if len(packed) == record.size and zlib.crc32(packed) == record.checksum:
                    return packed
            if attempt > 10:
                time.sleep(0.0005)
        if record is None:
            # The very first writer died in the middle of the very first record.
            return None
        raise LiveWeightsDamaged(file=self.path, reason="no whole block was found in it")

    def progress(self) -> Progress:
        """Also notices that the files were made anew, which happens only when somebody removed them meanwhile."""
        if self._control is None or self._was_replaced():
            self.close()
            if not self._attach():
                return Progress()
        assert self._control is not None
        for attempt in range(TRIES):
            told = _newest_progress(self._control)
            if told is not None:
                return _decode(told.payload)
            if not any(self._control[at : at + 1] != b"\0" for at in _PROGRESS_AT):
                return Progress()
            if attempt > 10:
                time.sleep(0.0005)
        raise LiveWeightsDamaged(file=self.path, reason="no whole progress was found in it")

    def silence_s(self) -> float:
        numbers = self._numbers
        if numbers is None or not numbers[_REPORTED_AT // 8]:
            return 0.0
        return max(0.0, (time.monotonic_ns() - numbers[_REPORTED_AT // 8]) / 1e9)

    def close(self) -> None:
        if self._numbers is not None:
            self._numbers.release()
        for mapped in (self._control, self._data):
            if mapped is not None:
                mapped.close()
        if self._beside is not None:
            self._beside.close()
        self._control = self._data = self._numbers = self._beside = None
        self._generation = 0

    def _attach(self) -> bool:
        try:
            inode = self.path.stat().st_ino
            control = _map(self.path, writable=False)
        except (FileNotFoundError, ValueError):
            return False
        if len(control) != CONTROL_BYTES or control[: len(MAGIC)] != MAGIC:
            control.close()
            return False
        self._control, self._inode = control, inode
        self._numbers = memoryview(control).cast("Q")
        return True

    def _map_generation(self, generation: int) -> bool:
        """Whether the record's data file is mapped; a file that is gone was replaced a moment ago."""
        if self._data is None or generation != self._generation:
            try:
                mapped = _map(data_file(self.path, generation), writable=False)
            except (FileNotFoundError, ValueError):
                return False
            if self._data is not None:
                self._data.close()
            self._data, self._generation = mapped, generation
        return True

    def _was_replaced(self) -> bool:
        try:
            return self.path.stat().st_ino != self._inode
        except FileNotFoundError:
            return False


def _newest_record(control: mmap.mmap) -> _Record | None:
    return _newest(control, _record_at, _RECORDS_AT)


def _newest_progress(control: mmap.mmap) -> _Told | None:
    return _newest(control, _progress_at, _PROGRESS_AT)


def _newest(
    control: mmap.mmap, read: Callable[[mmap.mmap, int], _Slot | None], places: tuple[int, int]
) -> _Slot | None:
    """The slot with the higher sequence among those that are whole.

    Where only one is, the other is being written, and the whole one was the newest as long as it stands there still: a
    reader that slept between the two may hold one that has been overwritten since."""
    while True:
        first, second = read(control, places[0]), read(control, places[1])
        if first is not None and second is not None:
            return max(first, second, key=lambda slot: slot.sequence)
        if first is None and second is None:
            return None
        whole, place = (first, places[0]) if first is not None else (second, places[1])
        if read(control, place) == whole:
            return whole


def _record_at(control: mmap.mmap, at: int) -> _Record | None:
    """The record here, if its checksum is right. All zeros has another one, so that an untouched record is none."""
    raw = control[at : at + _RECORD.size + _CRC.size]
    (checksum,) = _CRC.unpack_from(raw, _RECORD.size)
    return _Record(*_RECORD.unpack_from(raw)) if checksum == zlib.crc32(raw[: _RECORD.size]) else None


def _progress_at(control: mmap.mmap, at: int) -> _Told | None:
    """The progress here, if both checksums are right."""
    raw = control[at : at + _PROGRESS_HEAD.size + _CRC.size]
    (checksum,) = _CRC.unpack_from(raw, _PROGRESS_HEAD.size)
    if checksum != zlib.crc32(raw[: _PROGRESS_HEAD.size]):
        return None
    sequence, size, payload_checksum = _PROGRESS_HEAD.unpack_from(raw)
    payload = control[at + len(raw) : at + len(raw) + size]
    return _Told(sequence, payload) if zlib.crc32(payload) == payload_checksum else None


def _is_untouched(control: mmap.mmap) -> bool:
    return not any(control[_RECORDS_AT[0] : _RECORDS_AT[1] + 64])


def _create_control(path: Path) -> mmap.mmap:
    """Map the control file; a new one gets its name only when it is whole."""
    try:
        control = _map(path, writable=True)
        if len(control) == CONTROL_BYTES and control[: len(MAGIC)] == MAGIC:
            return control
        control.close()
        raise LiveWeightsDamaged(file=path, reason="it was not written by this version of Penstock")
    except FileNotFoundError:
        pass
    beside = path.with_name(f"{path.name}.new")
    beside.unlink(missing_ok=True)
    try:
        _reserve(beside, CONTROL_BYTES)
    except OSError as error:
        raise LiveWeightsDamaged(file=path, reason=str(error)) from error
    control = _map(beside, writable=True)
    control[: len(MAGIC)] = MAGIC
    os.rename(beside, path)
    return control


def _reserve(path: Path, size: int) -> None:
    """Make a file whose memory is there: writing to a hole in a full /dev/shm would kill the process without a word."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError:
        path.unlink()
        raise
    finally:
        os.close(fd)


def _map(path: Path, writable: bool) -> mmap.mmap:
    fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    try:
        return mmap.mmap(fd, 0, access=mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ)
    finally:
        os.close(fd)
