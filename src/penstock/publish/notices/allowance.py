"""What a service may still do for its money: a small file in its folder, written by whoever watches the budget, and
read by its learner, its consolidator and its servers.

It decides when something is done and never what comes of it, so that a replay does not depend on it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, get_args

import msgspec

from penstock.publish.notices.notice import put_up

Rung = Literal[
    "free",
    "alert",
    "slow_consolidation",
    "pause_consolidation",
    "learn_less",
    "pause_learning",
    "serving_floor",
    "stop",
]
"""The ladder, from the bottom. Each rung does what those below it do as well."""
RUNGS: tuple[Rung, ...] = get_args(Rung)
HEIGHT: dict[Rung, int] = {rung: height for height, rung in enumerate(RUNGS)}

LEARN_LESS_REST_S = 0.5
"""Seconds between two rounds of steps, however much waits, where less is learned: a round is some 20 ms, and takes more
events at once, each of which is then cheaper."""
SLOW_REST = 30.0
"""Times its own duration for which the next training is put off where consolidation is slowed."""


class Limit(msgspec.Struct, frozen=True, kw_only=True):
    """One period of a budget, as it stood at the last look."""

    period: str
    """As 2026-07-31, or 2026-07."""
    limit: float | None
    """Null where there is none."""
    spent: float
    forecast: float | None
    """At the end of the period; null while too little is known."""


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """What ``allowance.json`` says."""

    rung: Rung = "free"
    why: str = ""
    """What put it there, with its numbers."""
    scope: str = ""
    """Whose budget did: the service's name, or ``portfolio``."""
    since: float = 0.0
    """Seconds since 1970."""
    at: float = 0.0
    """Of the last look."""
    ends: float = 0.0
    """When the period ends whose limit put it there, if nobody allows more before; 0 where no limit did."""
    learn_until: float | None = None
    """Until when what is learned cannot come near a limit though nobody looks: then learning pauses by itself. Null
    where there is no limit."""
    currency: str = "USD"
    day: Limit | None = None
    month: Limit | None = None
    per_hour: float = 0.0
    """What the service costs at present."""
    per_1000_predictions: float | None = None
    per_million_learned: float | None = None
    machine: str = ""
    """Whose price is counted with, or who counts."""
    counted_until: float = 0.0
    """Up to when it is known what was spent: the last look, or less where another system counts."""
    meter_fault: str = ""
    """Why nothing is heard of that system; empty while it answers."""

    def reaches(self, rung: Rung) -> bool:
        """Whether what this rung does is to be done."""
        return HEIGHT[self.rung] >= HEIGHT[rung]

    def stops_learning(self, now: float) -> bool:
        """Whether nothing is to be learned, nor a base trained, at this time in seconds since 1970: the budget says so,
        or whoever watches it has not looked for too long."""
        return self.reaches("pause_learning") or (self.learn_until is not None and now > self.learn_until)


FREE = Allowance()


class AllowanceFile:
    """The file of one service, read again when it has changed."""

    def __init__(self, folder: Path) -> None:
        """``folder`` is the service's."""
        self._path = folder / "allowance.json"
        self._seen: tuple[int, int] = (0, 0)
        self.latest = FREE
        """What it said when it was last looked at."""
        # Whoever is started where everything is spent knows it before it answers anything.
        self()

    def __call__(self) -> Allowance:
        """What it says now. One that is not there allows everything, and one that is damaged what the last one did."""
        try:
            found = os.stat(self._path)
            if (seen := (found.st_ino, found.st_mtime_ns)) != self._seen:
                self.latest, self._seen = msgspec.json.decode(self._path.read_bytes(), type=Allowance), seen
        except FileNotFoundError:
            self.latest, self._seen = FREE, (0, 0)
        except (OSError, msgspec.MsgspecError):
            pass
        return self.latest


def write_allowance(folder: Path, allowance: Allowance) -> None:
    """Say it; the ledger has it for good."""
    put_up(folder / "allowance.json", allowance)
