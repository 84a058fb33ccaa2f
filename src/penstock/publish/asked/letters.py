"""What is asked of a learner from outside: small files in folders of its service, durable before they are seen."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec

from penstock.eventlog.doorbell import call
from penstock.eventlog.folders import sync_folder
from penstock.learn.checkpoint import write_durably


def leave(folder: Path, letter: msgspec.Struct, suffix: str) -> Path:
    """Leave this in a folder of a service, behind what was left before, and wake the learner; it is there for good when
    this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{time.time_ns():020d}-{os.getpid()}"
    beside = folder / f"tmp-{name}"
    write_durably(beside, msgspec.json.encode(letter))
    file = beside.rename(folder / f"{name}{suffix}")
    sync_folder(folder)
    call(folder.parent / "log")
    return file
