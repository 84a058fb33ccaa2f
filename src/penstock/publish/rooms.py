"""What a publisher is given: where its results go, and what tells it the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from penstock.events import Version
from penstock.learn.checkpoint import Checkpoints
from penstock.learn.inputs import Seen
from penstock.learn.journal import StepJournal
from penstock.learn.learner import Learner
from penstock.publish.interface import LiveWeights, Receipts, Snapshots, Witness
from penstock.publish.notices.allowance import FREE, Allowance


class DurableReceipts(Receipts, Protocol):
    """Receipts that say what they hold and can be made durable, so that the journal may forget."""

    def highest(self) -> Version: ...
    def flush(self, durably: bool = False) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Rooms:
    """Where the results of one service's learner go."""

    journal: StepJournal
    checkpoints: Checkpoints
    live: LiveWeights
    snapshots: Snapshots
    receipts: DurableReceipts
    witness: Witness | None = None
    wishes: Path | None = None
    """The folder in which is asked for events that are set aside."""
    orders: Path | None = None
    """The folder in which somebody orders something by hand."""
    canary: Path | None = None
    """The folder in which servers say what they have counted of a candidate that answers a share of the traffic."""
    allowance: Callable[[], Allowance] = lambda: FREE
    """What may still be done for the money."""
    keeps_past: Callable[[], bool] = lambda: False
    """Whether everything is kept that rebuilding versions from the log's first event takes."""
    corrected: Callable[[float], None] = lambda cpu_s: None
    """Told the processor time that it took to make corrections good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowRooms:
    """Where consolidations leave their candidates, and what follows the journal with one."""

    consolidation: Path
    bases: Path
    follower: Callable[[], Learner]
    """A new learner over the same log, whose model finds its base by the id in the state that it loads."""
    seen: Callable[[str], Seen | None] = lambda base: None
    """What the base of this id was trained on; None where it does not say. Raises BaseMissing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clocks:
    """Times that stand in receipts or decide when to write a checkpoint; never in what is learned."""

    now: Callable[[], float] = time.time
    elapsed: Callable[[], float] = time.monotonic
    cpu: Callable[[], float] = time.process_time


SYSTEM = Clocks()
