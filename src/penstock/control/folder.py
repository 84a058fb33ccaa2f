"""The data folder's lock and the supervisor's state file: who is at work here, and where it answers."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from penstock.errors import FolderInUse, FolderUnusable
from penstock.eventlog.folders import lock_folder

ORPHANS_S = 10.0
"""How long the children of a supervisor that was killed may take to die: they are killed at once, but the lock is
theirs until the system has taken them down."""


class State(msgspec.Struct, kw_only=True):
    """What ``run/state.json`` says; it is there while a supervisor runs, and afterwards where one was killed."""

    pid: int
    address: str
    started: float
    """Seconds since 1970."""
    ready: bool = False
    services: list[str] = []
    servers: dict[str, int] = {}
    """Process ids by worker number."""
    learners: dict[str, int] = {}
    """Process ids by service."""
    consolidators: dict[str, int] = {}
    """Process ids by service."""
    restarts: dict[str, int] = {}
    """How often each process that died was started again."""


def state_path(folder: Path) -> Path:
    """Where the state stands in a data folder."""
    return folder / "run" / "state.json"


def read_state(folder: Path) -> State | None:
    """The state of the supervisor that runs on this folder, or None where none does."""
    try:
        state = msgspec.json.decode(state_path(folder).read_bytes(), type=State)
    except (OSError, msgspec.MsgspecError):
        return None
    return state if is_alive(state.pid) else None


def write_state(folder: Path, state: State) -> None:
    """Replace the state; a reader sees the old one or the new one."""
    replace_file(state_path(folder), msgspec.json.format(msgspec.json.encode(state)) + b"\n")


def replace_file(path: Path, content: bytes) -> None:
    """Put a file in the place of another at once: whoever reads it sees all of the old one or all of the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def erasing_folder(data: Path, service: str) -> Path:
    """Where a service without some events is built (``new``); ``whole``, it is about to take the place of the service,
    which is ``old`` for a moment."""
    return data / ".erasing" / service


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Hold the data folder; gives the lock's descriptor, which children inherit so that a folder is free only when the
    last process that may write to it is gone.

    Raises FolderInUse with the holder's pid, and FolderUnusable where the folder cannot be made or written to."""
    try:
        (folder / "run").mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise FolderUnusable(folder=folder, reason=error.strerror) from error
    try:
        _take(descriptor, folder)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
        os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


@contextmanager
def writers_kept_out(folder: Path) -> Iterator[None]:
    """Keep every writer out of a service's folder: a server worker may run without a supervisor.

    Raises FolderInUse."""
    with ExitStack() as held:
        for place in (*sorted((folder / "log").glob("[0-9]*")), folder / "steps"):
            if place.is_dir():
                held.callback(os.close, lock_folder(place))
        yield


def _take(descriptor: int, folder: Path) -> None:
    deadline = time.monotonic() + ORPHANS_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 32, 0).strip()
            pid = int(holder) if holder.isdigit() else 0
            if is_alive(pid) or time.monotonic() > deadline:
                raise FolderInUse(folder=folder, pid=pid) from None
            time.sleep(0.02)
        else:
            return


def is_alive(pid: int) -> bool:
    """Whether there is a process of this number."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
