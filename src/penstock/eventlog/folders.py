"""Folders of files that must outlive a crash and have one writer: the log's partitions, and what is kept downstream."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from penstock.errors import FolderInUse


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def lock_folder(folder: Path) -> int:
    """Hold the folder until the descriptor is closed or the process ends, however it ends. Raises FolderInUse."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pid = os.read(fd, 32).decode().strip() or "unknown"
        os.close(fd)
        raise FolderInUse(folder=str(folder), pid=pid) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd
