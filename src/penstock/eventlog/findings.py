"""What an inspection of a data folder finds, and how it is repaired: shared by the inspections of every stage."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from penstock.eventlog.folders import sync_folder

Part = Literal["log", "journal", "checkpoint", "snapshot", "receipts", "base", "candidate", "ids", "record"]

SUFFIX = ".damaged"
"""Of what a repair took away: kept beside its place, for whoever wants to look at it."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is not as it was written."""

    part: Part
    file: str
    what: str
    means: str
    """What it means for the service."""
    remedy: str
    """What can be done about it."""
    byte: int | None = None
    partition: int | None = None
    offset: int | None = None
    """The first event that it is about."""
    repairable: bool = False
    repaired: bool = False
    kept: str = ""
    """Where what a repair took away is kept."""


@dataclass(frozen=True, slots=True)
class Found:
    """A finding, and what mends it without inventing anything: returns where it keeps what it took away."""

    finding: Finding
    repair: Callable[[], Path | None] | None = None


def found(repair: Callable[[], Path | None] | None = None, /, **told: object) -> Found:
    """A finding with these fields, repairable where there is a repair."""
    return Found(msgspec.convert({**told, "repairable": repair is not None}, Finding), repair)


def put_aside(path: Path) -> Path:
    """Give a file or folder a name under which nobody looks for it."""
    aside = _free_name(path)
    os.rename(path, aside)
    sync_folder(path.parent)
    return aside


def cut_tail(path: Path, byte: int) -> Path:
    """Cut a file here; what is cut off is kept beside it, and durable before it is cut."""
    aside = _free_name(path.with_name(f"{path.name}.from-{byte}"))
    with path.open("r+b") as file:
        file.seek(byte)
        with aside.open("xb") as copy:
            shutil.copyfileobj(file, copy)
            copy.flush()
            os.fsync(copy.fileno())
        sync_folder(path.parent)
        file.truncate(byte)
        file.flush()
        os.fsync(file.fileno())
    return aside


def _free_name(path: Path) -> Path:
    aside, number = path.with_name(path.name + SUFFIX), 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.{number}{SUFFIX}")
    return aside
