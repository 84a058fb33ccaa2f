"""Writers killed at any moment: what they acknowledged is there, in order, once."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock.errors import PenstockError
from penstock.eventlog.commit import GroupCommit
from penstock.eventlog.local import LocalLogReader, LocalLogWriter
from penstock.events import Offset, Partition
from penstock.testing.log_conformance import P0, entry

RECORD = struct.Struct("<QQ")
THREADS = 4
STEPS_MAX = 400


def append_for_ever(folder: Path, fd: int, round_number: int) -> None:
    """Several threads append; each acknowledgement goes to the pipe as offset and number of the entry."""
    writer = LocalLogWriter(folder, P0, segment_bytes=20_000)
    commit = GroupCommit(writer, max_pending_bytes=1 << 20)

    def submit(thread: int) -> None:
        room = threading.Semaphore(20)
        for i in range(1 << 40):
            number = (round_number << 48) + (thread << 40) + i
            room.acquire()

            def acknowledged(offset: Offset | Exception, number: int = number) -> None:
                assert not isinstance(offset, Exception)
                os.write(fd, RECORD.pack(offset, number))
                room.release()

            commit.submit(entry(RECORD.pack(0, number), b"x" * (i % 300)), acknowledged)

    for thread in range(THREADS):
        threading.Thread(target=submit, args=(thread,)).start()


def run_until_killed(folder: Path, round_number: int, acknowledgements: int) -> list[tuple[int, int]]:
    reading, writing = os.pipe()
    os.set_inheritable(writing, True)
    process = multiprocessing.get_context("fork").Process(
        target=append_for_ever, args=(folder, writing, round_number), daemon=True
    )
    process.start()
    os.close(writing)
    received = b""
    while len(received) < acknowledgements * RECORD.size:
        more = os.read(reading, 65536)
        assert more, "the writer died by itself"
        received += more
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join(60)
    while more := os.read(reading, 65536):
        received += more
    os.close(reading)
    return list(RECORD.iter_unpack(received))


def test_every_acknowledged_event_survives_sigkill_in_order_and_once(tmp_path: Path) -> None:
    chance = random.Random(7)
    acknowledged: dict[int, int] = {}
    for round_number in range(8):
        for offset, number in run_until_killed(tmp_path, round_number, chance.randrange(1, 600)):
            assert offset not in acknowledged, "one offset was given out twice"
            acknowledged[offset] = number
        LocalLogWriter(tmp_path, P0).close()
        reader = LocalLogReader(tmp_path)
        stored = {f.first: RECORD.unpack_from(f.payload)[1] for f in reader.read(P0, Offset(0), reader.ends()[P0])}
        reader.close()
        missing = {o: n for o, n in acknowledged.items() if stored.get(o) != n}
        assert not missing
        assert list(stored) == list(range(len(stored)))
        assert len(set(stored.values())) == len(stored), "an entry is there twice"
        for source in {number >> 40 for number in stored.values()}:
            of_one_thread = [number for number in stored.values() if number >> 40 == source]
            assert of_one_thread == sorted(of_one_thread)


def live_a_little(folder: Path, acknowledge: Callable[[str, int, bytes], None]) -> None:
    """Open, append, go over segments, remove old ones, close and open again: every step that touches the disk."""
    for life in range(2):
        writer = LocalLogWriter(folder, Partition(0), segment_bytes=400)
        acknowledge("incarnation", writer.incarnation, b"")
        for i in range(5):
            payloads = [b"%d %d %d" % (life, i, k) + bytes(80) for k in range(2)]
            for payload, offset in zip(payloads, writer.append([entry(p) for p in payloads]), strict=True):
                acknowledge("offset", offset, payload)
        acknowledge("needed", writer.end() - 6, b"")
        writer.retain(Offset(writer.end() - 6), 600, 1e12, 0.0)
        writer.close()


def die_at_step(folder: Path, step: int, fd: int) -> None:
    """Run it and die just before its n-th system call that changes the disk; a write is done by half first."""
    taken = 0
    write = os.write

    def before(name: str) -> None:
        real: Callable[..., Any] = getattr(os, name)

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal taken
            taken += 1
            if taken == step:
                if name == "pwritev":
                    content = b"".join(args[1])
                    os.pwrite(args[0], content[: len(content) // 2], args[2])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **kwargs)

        setattr(os, name, counted)

    def acknowledge(what: str, number: int, payload: bytes) -> None:
        write(fd, f"{what} {number} {payload.hex()}\n".encode())

    for name in ("pwritev", "write", "fdatasync", "fsync", "rename", "ftruncate", "unlink", "mkdir"):
        before(name)
    live_a_little(folder, acknowledge)


def in_a_child(folder: Path, step: int) -> tuple[list[list[str]], bool]:
    """The lines that it acknowledged, and whether it came to its end."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            die_at_step(folder, step, writing)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, "rb") as pipe:
        lines = [line.decode().rstrip("\n").split(" ") for line in pipe.read().splitlines()]
    _, status = os.waitpid(pid, 0)
    assert status == 0 or os.WIFSIGNALED(status), "the log failed by itself"
    return lines, status == 0


@pytest.fixture
def quick_disk(tmp_path: Path) -> Iterator[Path]:
    """Where an fsync costs nothing: the system outlives the process here, so the disk is not asked."""
    shared = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(prefix="penstock-kill-", dir=shared if shared.is_dir() else tmp_path))
    yield folder
    shutil.rmtree(folder)


def test_dying_at_any_step_loses_nothing_acknowledged(quick_disk: Path) -> None:
    for step in range(1, STEPS_MAX):
        folder = quick_disk / str(step)
        lines, finished = in_a_child(folder, step)
        try:
            writer = LocalLogWriter(folder, P0, segment_bytes=400)
        except PenstockError as error:
            pytest.fail(f"after dying at step {step}: {error}")
        incarnations = [int(number) for what, number, _ in lines if what == "incarnation"]
        assert writer.incarnation > max(incarnations, default=0), f"step {step}"
        acknowledged = {int(n): bytes.fromhex(payload) for what, n, payload in lines if what == "offset"}
        needed = max((int(n) for what, n, _ in lines if what == "needed"), default=0)
        stored = {frame.first: bytes(frame.payload) for frame in writer.recent(10**9)}
        lost = {o for o, payload in acknowledged.items() if o >= needed and stored.get(o) != payload}
        assert not lost, f"step {step}"
        assert writer.append([entry(b"next")]) == [max(stored, default=-1) + 1], f"step {step}"
        writer.close()
        if finished:
            assert step > 40
            return
    pytest.fail("it takes more steps than were tried")
