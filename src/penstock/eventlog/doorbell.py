"""Waking readers of a log in other processes when something new is durable, and telling them of new partitions.

Every sleeping reader has a named pipe in the log's folder, and every writer writes one byte to each of them after its
mark has moved. Who is there, partitions and doorbells, is listed anew only when the number in the file ``roster`` has
changed: it is memory-mapped, so looking costs no system call, which matters to a commit thread that would have to win
the interpreter lock back after each.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import secrets
import select
from contextlib import suppress
from math import ceil
from pathlib import Path

_PREFIX = "doorbell-"
_ROSTER_BYTES = 8
_NEWS, _CALL = b"\0", b"\1"


class Roster:
    """A number that changes whenever a partition or a doorbell joins the log's folder."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(folder / "roster", os.O_RDWR | os.O_CREAT, 0o644)
        if os.fstat(self._fd).st_size < _ROSTER_BYTES:
            self.announce()
        self._map = mmap.mmap(self._fd, _ROSTER_BYTES, access=mmap.ACCESS_READ)

    def state(self) -> bytes:
        """Equal to an earlier answer as long as nobody has joined since."""
        return self._map[:_ROSTER_BYTES]

    def announce(self) -> None:
        """Make everybody look again. To be called when the newcomer is ready."""
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            number = int.from_bytes(os.pread(self._fd, _ROSTER_BYTES, 0), "little") + 1
            os.pwrite(self._fd, number.to_bytes(_ROSTER_BYTES, "little"), 0)
        finally:
            fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        self._map.close()
        os.close(self._fd)


class Doorbell:
    """A reader's end. Drain it, look whether there is something new, and only then listen: so no ring is missed."""

    def __init__(self, folder: Path, roster: Roster) -> None:
        name = f"{_PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        self._path = folder / name
        hidden = folder / f".{name}"
        os.mkfifo(hidden, 0o600)
        # Open for writing too, so that it never reads as closed when the last writer goes. It gets its name only then:
        # a writer takes a pipe without a reader for one whose reader has died, and removes it.
        self._fd = os.open(hidden, os.O_RDWR | os.O_NONBLOCK)
        os.rename(hidden, self._path)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        roster.announce()

    def drain(self) -> bool:
        """Forget the rings so far; whether one of them was a call."""
        with suppress(BlockingIOError):
            return _CALL in os.read(self._fd, 65536)
        return False

    def listen(self, timeout_s: float) -> bool:
        """Sleep until it rings (True) or the time is over."""
        return bool(self._poll.poll(ceil(max(0.0, timeout_s) * 1000)))

    def close(self) -> None:
        with suppress(FileNotFoundError):
            os.unlink(self._path)
        os.close(self._fd)


class Doorbells:
    """A writer's end: the doorbells of all readers, found by themselves."""

    def __init__(self, folder: Path, roster: Roster) -> None:
        self._folder = folder
        self._roster = roster
        self._seen = b""
        self._bells: dict[str, int] = {}

    def ring(self, byte: bytes = _NEWS) -> None:
        """Wake every reader. Never fails: who cannot be woken is gone."""
        state = self._roster.state()
        if state != self._seen:
            self._seen = state
            self._find()
        for name, fd in list(self._bells.items()):
            try:
                os.write(fd, byte)
            except BlockingIOError:
                pass  # It is full of rings that its reader has not heard yet.
            except OSError:
                self._remove(name)

    def close(self) -> None:
        while self._bells:
            os.close(self._bells.popitem()[1])

    def _find(self) -> None:
        for name in os.listdir(self._folder):
            if not name.startswith(_PREFIX) or name in self._bells:
                continue
            try:
                self._bells[name] = os.open(self._folder / name, os.O_WRONLY | os.O_NONBLOCK)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    self._remove(name)

    def _remove(self, name: str) -> None:
        fd = self._bells.pop(name, None)
        if fd is not None:
            os.close(fd)
        with suppress(OSError):
            os.unlink(self._folder / name)


def call(folder: Path) -> None:
    """Wake all readers of the log in this folder for something else than an event."""
    roster = Roster(folder)
    bells = Doorbells(folder, roster)
    bells.ring(_CALL)
    bells.close()
    roster.close()
