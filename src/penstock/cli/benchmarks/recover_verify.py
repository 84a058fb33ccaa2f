"""After the kills: the recorded steps taken once more in one go, in a process that nobody kills.

Run as ``python -m penstock.cli.benchmarks.recover_verify`` with a `Plan` as JSON on standard input. What the clients
were told was accepted is compared with the ids of the events that were learned, and the state that comes of it with
the state that the killed learners left.
"""

from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from penstock.control.record import recorded_path
from penstock.learn.checkpoint import Checkpoints
from penstock.learn.learner import Learner, Taken
from penstock.publish.assembly import replay_of
from penstock.publish.state import state_hash
from penstock.specfile.reader import load


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to verify."""

    data: str
    service: str
    acknowledged: str
    """A file with the ids that were acknowledged, a JSON array."""


class Verified(msgspec.Struct, frozen=True, kw_only=True):
    """What was found."""

    learned: int
    """Events that the recorded steps learned, with an id or without."""
    lost: int
    """Acknowledged ids that no step learned."""
    duplicated: int
    """Ids that were learned more than once."""
    steps: int
    state_hash: str
    """Of the uninterrupted replay."""
    left_hash: str
    """Of the state that was left."""


def verify(plan: Plan) -> Verified:
    """Take all recorded steps again. Raises ReplayDiverged where one of them gives another result than it gave."""
    folder = Path(plan.data, plan.service)
    left, damaged = Checkpoints(folder / "checkpoints", 1).newest()
    if left is None or damaged:
        raise damaged[0] if damaged else ValueError("the house left no checkpoint when it was stopped")
    acknowledged = msgspec.json.decode(Path(plan.acknowledged).read_bytes(), type=list[str])
    ids: Counter[str] = Counter()
    learned = 0
    with replay_of(load(recorded_path(Path(plan.data), plan.service)), folder) as replay, _witnessed(ids):
        for repeated in replay.run():
            learned += repeated.entry.events
        return Verified(
            learned=learned,
            lost=len(set(acknowledged) - ids.keys()),
            duplicated=sum(count > 1 for count in ids.values()),
            steps=replay.step,
            state_hash=replay.state_hash(),
            left_hash=state_hash(left),
        )


@contextlib.contextmanager
def _witnessed(ids: Counter[str]) -> Iterator[None]:
    """Count the ids of what any learner of this process learns: a replay tells of steps, not of their events."""
    again = Learner.again

    def counted(self: Learner, step: int, *recorded: Any) -> Taken:
        taken = again(self, step, *recorded)
        if taken.batch is not None:
            ids.update(event_id for event_id in taken.batch.ids or () if event_id is not None)
        return taken

    Learner.again = counted  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        Learner.again = again  # type: ignore[method-assign]


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(verify(msgspec.json.decode(sys.stdin.buffer.read(), type=Plan))))
