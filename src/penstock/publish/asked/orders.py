"""Orders: what somebody asks for by hand. Small files in a service's folder ``orders``, each obeyed once and answered.

The learner records in its journal what it obeys, with the order's id, before it answers; an order that is found again
after a crash is answered from there. An order whose asker has gone leaves an answer that nobody reads, for a while.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from penstock.events import Version
from penstock.learn.steps import OrderName
from penstock.publish.asked.letters import leave
from penstock.publish.notices.notice import put_up

ANSWERS_KEPT_S = 86_400.0
BY_MAX, REASON_MAX = 200, 2000

logger = logging.getLogger(__name__)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for, by whom, and why."""

    what: OrderName
    by: Annotated[str, Meta(min_length=1, max_length=BY_MAX)]
    reason: Annotated[str, Meta(max_length=REASON_MAX)] = ""
    version: Version | None = None
    """To go back to; None for the last known good."""

    def __post_init__(self) -> None:
        for name, text in (("by", self.by), ("reason", self.reason)):
            # What is said here stands in logs, lists and terminals, where it must not look like something else.
            if not text.isprintable():
                raise ValueError(f"{name} holds a character that cannot be printed")


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an order."""

    done: bool
    told: str
    """In words."""
    version: Version
    """What is served since then."""
    restored: Version | None = None
    """The version that was gone back to."""


def ask(folder: Path, order: Order) -> Path:
    """Leave an order in this ``orders`` folder and wake the learner; it is there for good when this returns."""
    return leave(folder, order, ".order")


def next_order(folder: Path) -> tuple[Path, Order] | None:
    """The oldest order and its file, or None; whoever gave it can no longer take it back. One that cannot be read is
    moved out of the way."""
    if not folder.exists():
        return None
    for file in sorted([*folder.glob("*.order"), *folder.glob("*.taken")]):
        try:
            taken = file.rename(file.with_suffix(".taken"))
            return taken, msgspec.json.decode(taken.read_bytes(), type=Order)
        except FileNotFoundError:
            continue  # It was just taken back.
        except msgspec.MsgspecError as error:
            logger.warning("an order cannot be read", extra={"file": str(file), "error": str(error)})
            file.with_suffix(".taken").rename(file.with_suffix(".damaged"))
    return None


def answer(file: Path, said: Answer) -> None:
    """Say what became of an order. Neither file has to survive the machine: the journal does."""
    put_up(file.with_suffix(".answer"), said)
    file.unlink(missing_ok=True)
    for old in file.parent.glob("*.answer"):
        if time.time() - old.stat().st_mtime > ANSWERS_KEPT_S:
            old.unlink(missing_ok=True)


def answered(file: Path) -> Answer | None:
    """What the learner has answered to the order in this file, once; None while it has not."""
    place = file.with_suffix(".answer")
    try:
        said = msgspec.json.decode(place.read_bytes(), type=Answer)
    except FileNotFoundError:
        return None
    place.unlink(missing_ok=True)
    return said


def withdraw(file: Path) -> bool:
    """Take an order back that nobody has taken up yet; whether there was still time."""
    try:
        file.unlink()
    except FileNotFoundError:
        return False
    return True
