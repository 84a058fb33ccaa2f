"""What a checkpoint holds together: how its parts are saved, what they need of the log, and by which hash two are
compared."""

from __future__ import annotations

from typing import Any, Protocol

from penstock.events import Position
from penstock.learn.checkpoint import Checkpoint, fingerprint


class Saved(Protocol):
    """Goes on from plain values as if it had never stopped, to the byte."""

    def save(self) -> Any: ...
    def load(self, values: Any, /) -> None: ...


def oldest(*needs: Position) -> Position:
    """The oldest offset in each partition that any of these needs."""
    found: Position = {}
    for need in needs:
        for partition, offset in need.items():
            found[partition] = min(offset, found.get(partition, offset))
    return found


def state_hash(checkpoint: Checkpoint) -> str:
    """SHA-256 of everything that decides what happens next: equal for equal events in equal steps, whatever crashed.

    What was spent, and when entries were made, is left out: nothing that is learned or decided depends on it."""
    return fingerprint(checkpoint, without=("account", "time"))
