"""Changes of budgets that somebody asks for: small files, durable before they are seen, each taken into the ledger
once."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from penstock.control.budget.limits import Change
from penstock.control.ledger import Ledger
from penstock.eventlog.folders import sync_folder
from penstock.learn.checkpoint import write_durably
from penstock.learn.steps import Reached, nothing

LOOK_EVERY_S = 0.25

logger = logging.getLogger(__name__)


def changes_folder(data: Path) -> Path:
    """Where they wait."""
    return data / ".money" / "changes"


def change_id(now: float) -> str:
    """A name for a change, after those that were made before."""
    return f"{int(now * 1e9):020d}-{os.getpid()}"


def ask(data: Path, change: Change) -> Path:
    """Leave a change; it is there for good when this returns."""
    folder = changes_folder(data)
    folder.mkdir(parents=True, exist_ok=True)
    beside = folder / f"tmp-{change.id}"
    write_durably(beside, msgspec.json.encode(change))
    file = beside.rename(folder / f"{change.id}.change")
    sync_folder(folder)
    return file


def waiting(data: Path) -> list[tuple[Path, Change]]:
    """Changes that are not in the ledger yet, the oldest first. One that cannot be read is moved out of the way."""
    found = []
    for file in sorted(changes_folder(data).glob("*.change")):
        try:
            found.append((file, msgspec.json.decode(file.read_bytes(), type=Change)))
        except FileNotFoundError:
            continue
        except msgspec.MsgspecError as error:
            logger.warning("a change of a budget cannot be read", extra={"file": str(file), "error": str(error)})
            file.rename(file.with_suffix(".damaged"))
    return found


def take(data: Path, ledger: Ledger, reached: Reached = nothing) -> None:
    """Put what waits into the ledger. After a crash before a file has gone it is found again, and is there already."""
    for file, change in waiting(data):
        ledger.change(change)
        reached("money.changed")
        file.unlink(missing_ok=True)


def wait_for_change(data: Path, stop: threading.Event, most_s: float, has_heard: Callable[[], bool]) -> None:
    """Sleep for so long, but not when somebody waits for a change to count, something was heard, or all is to end."""
    until = time.monotonic() + most_s
    while (left_s := until - time.monotonic()) > 0.0 and not stop.wait(min(left_s, LOOK_EVERY_S)):
        if has_heard() or any(changes_folder(data).glob("*.change")):
            return
