"""The last step of an erasure: what was built takes the place of the service, and what it was is removed.

Each move is a rename, so that whoever is killed leaves one of few states, and finishing it again goes on from there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from penstock.control.folder import erasing_folder
from penstock.eventlog.folders import sync_folder
from penstock.publish.weights.live_files import live_path, remove_live


def unfinished(data: Path) -> list[str]:
    """Services of which an erasure has decided, and not done its last step."""
    return sorted({path.parent.name for name in ("whole", "old") for path in data.glob(f".erasing/*/{name}")})


def finish(data: Path, service: str, reached: Callable[[str], None] = lambda _: None) -> bool:
    """Do what is left of the last step, while nobody else works in the data folder; whether anything was."""
    work, place = erasing_folder(data, service), data / service
    whole, old = work / "whole", work / "old"
    if not whole.exists() and not old.exists():
        if work.exists() and not (work / "new").exists():
            # Of one that was killed at its very beginning, or its very end.
            shutil.rmtree(work)
        return False
    if whole.exists():
        # 1. The service goes aside. From here on there is none of its name, and nothing but this goes on.
        if place.exists():
            os.rename(place, old)
            sync_folder(data)
            sync_folder(work)
            reached("erase.moved_away")
        # 2. What was built takes its place.
        os.rename(whole, place)
        sync_folder(data)
        sync_folder(work)
        reached("erase.moved_in")
    # 3. What servers read of the old one in memory goes, then all of it on the disk.
    remove_live(live_path(data, service))
    (work / "plan.json").unlink(missing_ok=True)
    shutil.rmtree(old, ignore_errors=True)
    reached("erase.removed")
    shutil.rmtree(work)
    sync_folder(work.parent)
    return True
