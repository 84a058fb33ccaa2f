"""What a learner that ended with an error said last, where servers find it: its own output may be read by nobody."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

FILE_NAME = "learner.fault"
_SLACK_S = 0.5
"""The clock of a file and the one of reports differ by less."""


def leave(folder: Path, error: Exception) -> None:
    """Say why the learner of the service in this folder ends. A disk that takes no more must not hide the error."""
    with contextlib.suppress(OSError):
        (folder / FILE_NAME).write_text(f"{error}\n", encoding="utf-8")


def heard(folder: Path, silence_s: float) -> str:
    """Why the learner ended, where nothing was heard of one for as long; empty where one reported since."""
    path = folder / FILE_NAME
    try:
        age_s = time.time() - path.stat().st_mtime
        return path.read_text(encoding="utf-8").strip() if age_s <= silence_s + _SLACK_S else ""
    except OSError:
        return ""
