"""What the entries of the step journal add up to: receipts, facts and counts. Pure: the same entries give the same
rows."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, Literal

import msgspec

from penstock.events import Offset, Partition, Range, Version
from penstock.facts import Dropped, Erased, Fact, Held, Published, Released, RolledBack, SetAside, TakenOut
from penstock.gate.interface import Interval
from penstock.learn.checkpoint import Checkpoint
from penstock.learn.measured import NOTHING, Measured, nearest
from penstock.learn.steps import Erasure, ShadowStep, Step
from penstock.publish.interface import ByHand, Consolidation, RaceEnd, Receipt
from penstock.publish.records.news import news
from penstock.publish.rooms import Rooms

ALPHA = 0.05
"""The intervals of receipts cover with a probability of at least 95 %."""
SOURCES_TOLD_MAX = 32
"""Sources that a receipt names at most, each with SOURCE_TOLD_MAX characters."""
SOURCE_TOLD_MAX = 100
SOURCES_COUNTED_MAX = 256
"""Reasons and sources whose events are counted for facts; the ones that came the longest ago begin anew."""
RANGES_MAX = 1024
"""A receipt that would list more ranges (a long hold over many partitions) lists one a partition instead."""


WITHDRAWN = (
    "Versions {first:,} to {last:,} were withdrawn by erasure {number}, since they may have learned from the events "
    "that it removed. Their weights and receipts are gone, and they can neither be served nor rebuilt."
)


def bounded_mean(total: float, events: int) -> Interval:
    """The mean of losses in [0, 1] with the Azuma-Hoeffding bounds of their expectation.

    Prequential losses depend on each other, and this bound holds for the mean of their conditional expectations all the
    same: half the width is sqrt(ln(2 / alpha) / (2 n))."""
    mean = total / events
    half_width = math.sqrt(math.log(2.0 / ALPHA) / (2.0 * events))
    return Interval(mean=mean, low=max(0.0, mean - half_width), high=min(1.0, mean + half_width), events=events)


_CAUSES: dict[str, Literal["start", "rollback", "update"]] = {
    "start": "start",
    "roll_back": "rollback",
    "publish": "update",
}


class _Open(msgspec.Struct, kw_only=True):
    """What was taken since the newest version."""

    ranges: list[Range] = []
    events: int = 0
    loss_sum: float = 0.0
    served_sum: float = 0.0
    cpu_s: float = 0.0
    held: int = 0
    aside: dict[str, int] = {}
    apprentice: RaceEnd | None = None
    measured: Measured = NOTHING


class _Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What answers a share of the traffic."""

    base: str
    share: float
    why: str


class _Saved(msgspec.Struct, frozen=True, kw_only=True):
    version: Version
    held: int
    rollbacks: int
    open: _Open
    base: str = ""
    environment: str = ""
    aside: list[tuple[str, str | None, int]] = []
    """Reason, source and events that were set aside, the newest last."""
    withdrawn: Version = Version(0)
    tried: Version = Version(0)
    trial: _Trial | None = None
    holding: str = ""


class Account:
    """The running account of one service."""

    def __init__(self, service: str) -> None:
        self._service = service
        self.version = Version(0)
        """What is served."""
        self.held = 0
        self.rollbacks = 0
        self.environment = ""
        """Name of what the learner runs on."""
        self.holding = ""
        """Why the gate holds updates back, in its words; empty while they are published."""
        self._base = ""
        self._withdrawn = Version(0)
        self._tried = Version(0)
        """The newest number under which a candidate has answered a share of the traffic."""
        self._trial: _Trial | None = None
        self._open = _Open()
        self._aside: dict[tuple[str, str | None], int] = {}

    @property
    def highest(self) -> Version:
        """The newest number that a version has had: one that an erasure has withdrawn is never given again."""
        return max(self.version, self._withdrawn, self._tried)

    def withdraw(self, erasure: Erasure) -> None:
        """The versions that there were beyond what is served are no more."""
        self._withdrawn = erasure.withdrawn

    def enter(self, step: Step) -> tuple[list[Receipt], list[Fact]]:
        """Add one entry: the receipt of the version that it made, if it made one, and what operators should know."""
        if step.erasure is None:
            return self._enter(step)
        receipts, facts = self._erasure(step.erasure)
        more_receipts, more_facts = self._enter(step)
        return [*receipts, *more_receipts], [*facts, *more_facts]

    def _erasure(self, erasure: Erasure) -> tuple[list[Receipt], list[Fact]]:
        """One receipt for all versions that are withdrawn: what theirs said was of the events that are gone, too."""
        number, at = erasure.number, erasure.at
        self.withdraw(erasure)
        if erasure.withdrawn <= self.version:
            return [], []
        receipt = Receipt(
            version=erasure.withdrawn,
            parent=self.version,
            cause="erasure",
            ranges=(),
            events=0,
            verdict=WITHDRAWN.format(first=self.version + 1, last=erasure.withdrawn, number=number),
            time=at,
            cpu_s=0.0,
            parent_base=self._base,
        )
        erased = Erased(
            at=at, service=self._service, number=number, first=Version(self.version + 1), last=erasure.withdrawn
        )
        return [receipt], [erased]

    def _enter(self, step: Step) -> tuple[list[Receipt], list[Fact]]:
        self.environment = step.environment or self.environment
        since = self._open
        since.ranges = joined_ranges([*since.ranges, *step.ranges])
        since.events += step.events
        since.loss_sum += step.loss_sum
        since.served_sum += step.served_sum
        since.cpu_s += step.cpu_s
        since.apprentice = _race(step) or since.apprentice
        since.measured = _both(since.measured, step.measured or NOTHING)
        if (shadow := step.shadow) is not None:
            widened = shadow.what == "widened"
            self._trial = _Trial(base=shadow.base, share=shadow.share, why=shadow.reason) if widened else None
        facts = [*news(step, self._service), *self._set_aside(step)]
        if step.action == "advance":
            return [], facts
        # A rollback begins a hold: what is served stands still until the candidate has proved itself.
        self.holding = step.verdict if step.action in ("hold", "roll_back") else ""
        if step.action == "hold":
            self.held += 1
            since.held += 1
            first = since.held == 1
            held = Held(at=step.time, service=self._service, version=self.version, reason=step.verdict)
            return [], [held, *facts] if first else facts
        receipt = self._receipt(step)
        self.version, self._base = step.version, step.base
        self._open = _Open()
        return [receipt, *self._tried_out(step)], [self._exposed(step, receipt), *facts]

    def _tried_out(self, step: Step) -> list[Receipt]:
        """The receipt of what answers a share of the traffic beside the version that the step made."""
        if not step.tried or self._trial is None:
            return []
        self._tried = step.tried
        return [
            Receipt(
                version=step.tried,
                parent=step.version,
                cause="canary",
                ranges=(),
                events=0,
                verdict=self._trial.why,
                time=step.time,
                cpu_s=0.0,
                base=self._trial.base,
                parent_base=step.base,
                environment=self.environment,
                share=self._trial.share,
                guards=(step.measured or NOTHING).shadow,
            )
        ]

    def _receipt(self, step: Step) -> Receipt:
        since, shadow = self._open, step.shadow
        promoted = shadow if shadow is not None and shadow.what == "promoted" else None
        return Receipt(
            version=step.version,
            parent=max(self.version, self._withdrawn),
            cause="promotion" if promoted else "correction" if step.corrected else _CAUSES[step.action],
            restores=step.restored,
            ranges=tuple(since.ranges),
            events=since.events,
            loss=bounded_mean(since.loss_sum, since.events) if since.events else None,
            parent_loss=bounded_mean(since.served_sum, since.events) if since.events else None,
            gain=_interval(step.gain),
            verdict=step.verdict,
            set_aside=since.aside,
            held=since.held,
            weights=step.weights,
            time=step.time,
            cpu_s=since.cpu_s,
            base=step.base,
            parent_base=self._base,
            environment=self.environment,
            consolidation=None if promoted is None else _consolidation(promoted),
            hand=None if (hand := step.hand) is None else ByHand(what=hand.what, by=hand.by, reason=hand.reason),
            apprentice=since.apprentice,
            guards=since.measured.shadow if promoted else since.measured.guards,
            forgotten=since.measured.forgotten,
            forgetting_max=since.measured.forgetting_max,
        )

    def _exposed(self, step: Step, receipt: Receipt) -> Fact:
        if step.action == "roll_back" and step.restored is not None:
            self.rollbacks += 1
            return RolledBack(
                at=step.time,
                service=self._service,
                version=step.version,
                withdrawn=receipt.parent,
                restored=step.restored,
                reason=step.verdict,
            )
        return Published(
            at=step.time, service=self._service, version=step.version, parent=receipt.parent, events=receipt.events
        )

    def _set_aside(self, step: Step) -> list[Fact]:
        aside, at, service = step.aside, step.time, self._service
        if aside is None:
            return []
        facts: list[Fact] = []
        for row in aside.aside:
            key = row.reason, row.source
            count = self._aside.pop(key, 0) + 1
            self._aside[key] = count
            if not count & (count - 1):
                facts.append(
                    SetAside(at=at, service=service, source=row.source, reason=row.reason, events=count, told=row.told)
                )
        for row in (*aside.aside, *aside.taken_out):
            name = (row.source or "")[:SOURCE_TOLD_MAX]
            if name in self._open.aside or len(self._open.aside) < SOURCES_TOLD_MAX:
                self._open.aside[name] = self._open.aside.get(name, 0) + 1
        self._aside = dict(list(self._aside.items())[-SOURCES_COUNTED_MAX:])
        for source, events in Counter(row.source for row in aside.taken_out).items():
            told, version = step.verdict, step.version
            facts.append(TakenOut(at=at, service=service, version=version, source=source, events=events, reason=told))
        for source, events in Counter(row.source for row in aside.released).items():
            facts.append(Released(at=at, service=service, source=source, events=events))
        if aside.dropped:
            facts.append(Dropped(at=at, service=service, events=len(aside.dropped), expired=False))
        if aside.expired:
            facts.append(Dropped(at=at, service=service, events=aside.expired, expired=True))
        return facts

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack."""
        saved = _Saved(
            version=self.version,
            held=self.held,
            rollbacks=self.rollbacks,
            open=self._open,
            base=self._base,
            environment=self.environment,
            aside=[(reason, source, count) for (reason, source), count in self._aside.items()],
            withdrawn=self._withdrawn,
            tried=self._tried,
            trial=self._trial,
            holding=self.holding,
        )
        plain: dict[str, Any] = msgspec.to_builtins(saved)
        if self._open.measured == NOTHING:
            # As states were before anything was measured: their hashes are compared.
            del plain["open"]["measured"]
        return plain

    def load(self, state: dict[str, Any]) -> None:
        saved = msgspec.convert(state, _Saved)
        self.version, self.held, self.rollbacks = saved.version, saved.held, saved.rollbacks
        self._open, self._base, self.environment = saved.open, saved.base, saved.environment
        self._withdrawn, self._tried, self._trial = saved.withdrawn, saved.tried, saved.trial
        self.holding = saved.holding
        self._aside = {(reason, source): count for reason, source, count in saved.aside}


def refill_receipts(rooms: Rooms, service: str, newest: Checkpoint) -> None:
    """Enter the recorded steps before the checkpoint again when receipts are missing, as when their file was
    removed."""
    checkpoints, receipts = rooms.checkpoints, rooms.receipts
    if receipts.highest() >= newest.version:
        return
    account, after = Account(service), 0
    oldest = next(iter(rooms.journal.entries()), None)
    if oldest is None or oldest.number > 1:
        older = [step for step in checkpoints.steps() if oldest is not None and step >= oldest.number - 1]
        start = checkpoints.read(older[0]) if older else newest
        account.load(start.values["account"])
        after = start.step
    for entry in rooms.journal.entries(after):
        if entry.number <= newest.step:
            receipts.write(*account.enter(entry))


def joined_ranges(ranges: list[Range]) -> list[Range]:
    """The same events with neighbours made one; in order of partitions, one each, where that leaves too many."""
    joined: list[Range] = []
    for partition, start, stop in ranges:
        if joined and joined[-1][0] == partition and joined[-1][2] == start:
            joined[-1] = (partition, joined[-1][1], stop)
        else:
            joined.append((partition, start, stop))
    if len(joined) <= RANGES_MAX:
        return joined
    spans: dict[Partition, tuple[Offset, Offset]] = {}
    for partition, start, stop in joined:
        spans[partition] = (spans.get(partition, (start, stop))[0], stop)
    return [(partition, *spans[partition]) for partition in sorted(spans)]


def _interval(gain: tuple[float, float, float, int] | None) -> Interval | None:
    return None if gain is None else Interval(mean=gain[0], low=gain[1], high=gain[2], events=gain[3])


def _both(older: Measured, newer: Measured) -> Measured:
    """What was measured with two entries, the newer one's look at the anchors before the older one's."""
    if newer == NOTHING:
        return older
    look = older if newer.forgotten is None else newer
    guards = nearest((*older.guards, *newer.guards))
    return Measured(guards, newer.shadow or older.shadow, look.forgotten, look.forgetting_max)


def _race(step: Step) -> RaceEnd | None:
    """The end of a race with the system that was there before; None where none has ended."""
    turn = step.apprentice
    if turn is None:
        return None
    mean, low, high, events = turn.gain
    gain = Interval(mean=mean, low=low, high=high, events=events)
    return RaceEnd(what=turn.what, of=turn.of, reason=turn.reason, gain=gain, evidence=turn.evidence)


def _consolidation(shadow: ShadowStep) -> Consolidation:
    return Consolidation(
        number=shadow.number,
        cause=shadow.cause,
        trained=shadow.trained,
        changes=shadow.changes,
        trained_until=shadow.trained_until,
        shadow_events=shadow.events,
        evidence=shadow.evidence,
        seconds=shadow.seconds,
        cpu_s=shadow.cpu_s,
        own=_interval(shadow.own),
    )
