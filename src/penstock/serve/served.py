"""One service as one server worker sees it: everything that its requests need, opened and closed together."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from penstock.errors import BaseMissing, LibraryMissing, LogCorrupt, OverBudget
from penstock.eventlog.interface import Counts, Frame
from penstock.events import Kind, Offset, Partition, Position, class_names
from penstock.events import decode as decode_payload
from penstock.gate.declared import Declared
from penstock.learn.interface import Bases, Block, Predictor
from penstock.metrics import ServiceMetrics
from penstock.publish.interface import LiveReader, Receipts
from penstock.publish.notices.allowance import AllowanceFile
from penstock.serve.answers import Answers
from penstock.serve.canary import Trial
from penstock.serve.classes import ClassRegister, KnownClasses
from penstock.serve.decode import Decoder
from penstock.serve.intake import Commits, Intake
from penstock.serve.seen import SeenIds
from penstock.spec import Spec

logger = logging.getLogger(__name__)

BEHIND_AFTER_S = 60.0
"""Seconds that events have waited, while others are taken, after which the learner is called behind."""

STALLED_AFTER_S = 10.0
"""Seconds without any progress, while events wait, after which the learner is called stalled. A restart that has to
replay half a minute's worth of a busy stream takes less."""


THAW_AGAIN_S = 5.0
"""After which a base that could not be opened is looked for again."""


SILENT_AFTER_S = 15.0
"""Seconds without a sign of the learner after which it is called silent; a checkpoint of a large state takes less."""


STOPPED_RETRY_MIN_S, STOPPED_RETRY_MAX_S = 5.0, 3600.0
"""After which a client may ask again where everything is spent: at the end of the day or month, or an hour later."""


class LogView(Protocol):
    """What a server wants to know of a log that it does not read events from."""

    def ends(self) -> Position: ...

    def counts(self) -> Counts: ...


@dataclass(slots=True)
class Service:
    """One service, ready to be asked."""

    spec: Spec
    decoder: Decoder
    declared: Declared
    classes: KnownClasses
    intake: Intake
    answers: Answers
    log: LogView
    live: LiveReader
    receipts: Receipts
    metrics: ServiceMetrics
    folder: Path
    thaw: Thaw
    allowance: AllowanceFile
    pace: Pace = field(default_factory=lambda: Pace())

    def lag(self) -> int:
        """Durable events, of all kinds, that the learner has not taken yet."""
        return max(0, sum(self.log.ends().values()) - sum(self.live.progress().position.values()))

    def demand_open(self) -> None:
        """Raises OverBudget where everything is spent, and the service is to end with it."""
        allowance = self.allowance.latest
        if allowance.rung == "stop":
            # Somebody may allow more at any time, and who was told to come back next month would not hear of it.
            wait_s = min(STOPPED_RETRY_MAX_S, max(STOPPED_RETRY_MIN_S, allowance.ends - time.time()))
            raise OverBudget(service=self.spec.name, why=allowance.why, retry_after_s=math.ceil(wait_s))

    def look(self) -> Pace:
        """Whether the learner keeps up, as of now; and what it published last is made ready to answer."""
        self.answers.look()
        self.allowance()
        taken = sum(self.live.progress().position.values())
        self.pace.look(sum(self.log.ends().values()), taken, time.monotonic())
        return self.pace


@dataclass(slots=True)
class Thaw:
    """Makes predictors of blocks, and remembers why the newest could not be made one."""

    make: Callable[[Block], Predictor]
    bases: Bases
    fault: str = ""
    """Why what was served before still answers; empty while the newest block does."""
    has_made: bool = False
    """Whether there is one that answers at all."""
    _failed: str = ""
    """The base that could not be opened."""
    _again_at: float = 0.0

    def __call__(self, block: Block) -> Predictor:
        """Raises BaseMissing and LibraryMissing; a base that was not there a moment ago is not looked for again."""
        base = block.head.base
        if base and base == self._failed and time.monotonic() < self._again_at:
            raise BaseMissing(id=base, reason=f"it could not be opened {THAW_AGAIN_S:g} s ago")
        try:
            predictor = self.make(block)
        except (BaseMissing, LibraryMissing) as error:
            self.fault, self._failed, self._again_at = str(error), base, time.monotonic() + THAW_AGAIN_S
            raise
        self.fault = self._failed = ""
        self.has_made = True
        return predictor

    def prepare(self, base: str) -> None:
        """Open a base that may soon be needed, so that nobody waits for it then; what fails now is told then."""
        with contextlib.suppress(BaseMissing, LibraryMissing):
            self.bases(base)


@dataclass(slots=True)
class Pace:
    """For how long events wait for the learner, from looks now and then at how many are durable and how many taken.

    Between two looks nothing is known, so both figures count from a look: they are at least what they say."""

    stalled_s: float = 0.0
    """For how many seconds some have waited without any being taken."""
    behind_s: float = 0.0
    """For how many seconds some of those that wait have waited."""
    _taken: int = -1
    _stalled_since: float | None = None
    _mark: int = 0
    """So many events were durable at ``_marked_at``, and not all of them are taken."""
    _marked_at: float | None = None

    def look(self, durable: int, taken: int, now: float) -> None:
        """Take the counts as of ``now``, in seconds by a clock that does not jump."""
        if taken >= durable:
            self._stalled_since = self._marked_at = None
        else:
            if taken != self._taken or self._stalled_since is None:
                self._stalled_since = now
            if taken >= self._mark or self._marked_at is None:
                self._mark, self._marked_at = durable, now
        self._taken = taken
        self.stalled_s = 0.0 if self._stalled_since is None else now - self._stalled_since
        self.behind_s = 0.0 if self._marked_at is None else now - self._marked_at


def assemble(
    spec: Spec,
    *,
    partition: Partition,
    incarnation: int,
    end: Offset,
    recent: Iterator[Frame],
    commits: Commits,
    log: LogView,
    live: LiveReader,
    receipts: Receipts,
    thaw: Thaw,
    beside: Callable[[Block], Predictor],
    folder: Path,
    loop: asyncio.AbstractEventLoop,
) -> Service:
    """Wire a service's parts. ``recent`` are the last frames of the worker's own partition, for the ids and classes
    in them; ``beside`` makes predictors of what is tried out beside what is served."""
    decoder = Decoder(spec)
    metrics = ServiceMetrics(spec.name)
    seen, classes = SeenIds(spec.label.ids_window), KnownClasses(spec, live, ClassRegister(folder / "classes.jsonl"))
    try:
        _remember(recent, seen, classes)
    except LogCorrupt as error:
        # Predictions must not stop for it. The learner remembers ids as well, and stops where it cannot read.
        logger.warning("ids of the log's end are not known, it is damaged", extra={"error": str(error)})
    intake = Intake(decoder, commits, partition, end, seen, metrics, loop)
    prefix = f"{partition}-{incarnation}-"
    trial = Trial(live, beside, folder, partition, spec.gate.slower_max)
    answers = Answers(decoder, live, thaw, trial, intake, prefix, metrics, loop)
    return Service(
        spec=spec,
        decoder=decoder,
        declared=Declared(spec),
        classes=classes,
        intake=intake,
        answers=answers,
        log=log,
        live=live,
        receipts=receipts,
        metrics=metrics,
        folder=folder,
        thaw=thaw,
        allowance=AllowanceFile(folder),
    )


def recent_events(spec: Spec) -> int:
    """How far back in the log ids and classes are looked for at the start."""
    return 2 * spec.label.ids_window


def _remember(frames: Iterator[Frame], seen: SeenIds, classes: KnownClasses) -> None:
    for frame in frames:
        if frame.kind is Kind.PREDICTION:
            continue
        batch = decode_payload(frame.payload)
        classes.remember(class_names(batch.labels))
        if frame.kind is Kind.EXAMPLE:
            for event_id in batch.ids or ():
                if event_id is not None:
                    seen.add(event_id)
