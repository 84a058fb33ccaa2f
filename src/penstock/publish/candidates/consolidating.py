"""What is known of a training beside its candidate: small files in a service's folder ``consolidation``.

``request.json`` asks for a training and ``challenge.json`` for other settings to be tried, ``state.json`` says what the
consolidator does, ``training.log`` is what the training said.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Literal

import msgspec

from penstock.learn.configuration import Configuration
from penstock.publish.notices.notice import put_up


class Challenge(msgspec.Struct, frozen=True, kw_only=True):
    """What ``challenge.json`` says."""

    at: float
    """Seconds since 1970."""
    configuration: Configuration
    changes: tuple[str, ...]
    """What is new of it, as people read it."""


class Consolidating(msgspec.Struct, frozen=True, kw_only=True):
    """What ``state.json`` says."""

    phase: Literal["waiting", "training", "failed"] = "waiting"
    number: int = 0
    """Of the consolidation that is at work, or was last."""
    reason: str = ""
    challenge: float = 0.0
    """When it was asked for, of a challenge; else 0."""
    since: float = 0.0
    """Seconds since 1970 at which the phase began."""
    failures: int = 0
    """How often in a row training has failed."""
    failure: str = ""
    """The last lines that the failed training said."""
    retry_at: float = 0.0
    took_s: float = 0.0
    """Seconds of the last training that left a candidate."""


def read_consolidating(folder: Path) -> Consolidating:
    """What the consolidator of this ``consolidation`` folder does."""
    try:
        return msgspec.json.decode((folder / "state.json").read_bytes(), type=Consolidating)
    except (OSError, msgspec.MsgspecError):
        return Consolidating()


def write_consolidating(folder: Path, state: Consolidating) -> None:
    """Say what it does."""
    folder.mkdir(parents=True, exist_ok=True)
    put_up(folder / "state.json", state)


def ask(folder: Path, now: float) -> None:
    """Ask for a training."""
    folder.mkdir(parents=True, exist_ok=True)
    put_up(folder / "request.json", {"at": now})


def is_asked(folder: Path) -> bool:
    """Whether somebody waits for a training to begin."""
    return (folder / "request.json").exists()


def answer(folder: Path) -> None:
    """The training that was asked for has begun."""
    with contextlib.suppress(FileNotFoundError):
        (folder / "request.json").unlink()


def ask_challenge(folder: Path, asked: Challenge) -> None:
    """Ask for these settings to be tried, in the place of what was asked for before and has not begun."""
    folder.mkdir(parents=True, exist_ok=True)
    put_up(folder / "challenge.json", asked)


def asked_challenge(folder: Path) -> Challenge | None:
    """The settings that are to be tried, until their candidate stands ready; None where there are none."""
    try:
        return msgspec.json.decode((folder / "challenge.json").read_bytes(), type=Challenge)
    except (OSError, msgspec.MsgspecError):
        return None


def answer_challenge(folder: Path, at: float) -> None:
    """The candidate of what was asked for then stands ready, or there will be none. What somebody has asked for in its
    place meanwhile is still to be tried."""
    asked = asked_challenge(folder)
    if asked is not None and asked.at == at:
        (folder / "challenge.json").unlink(missing_ok=True)
