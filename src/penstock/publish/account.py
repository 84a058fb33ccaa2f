"""What the entries of the step journal add up to: receipts, facts and counts. Pure: the same entries give the same
rows."""

from __future__ import annotations

import math
from typing import Any

import msgspec

from penstock.events import Offset, Partition, Range, Version
from penstock.facts import Fact, Held, Published, RolledBack
from penstock.gate.interface import Interval
from penstock.learn.steps import Step
from penstock.publish.interface import Receipt

ALPHA = 0.05
"""The intervals of receipts cover with a probability of at least 95 %."""
RANGES_MAX = 1024
"""A receipt that would list more ranges (a long hold over many partitions) lists one a partition instead."""


def bounded_mean(total: float, events: int) -> Interval:
    """The mean of losses in [0, 1] with the Azuma-Hoeffding bounds of their expectation.

    Prequential losses depend on each other, and this bound holds for the mean of their conditional expectations all the
    same: half the width is sqrt(ln(2 / alpha) / (2 n))."""
    mean = total / events
    half_width = math.sqrt(math.log(2.0 / ALPHA) / (2.0 * events))
    return Interval(mean=mean, low=max(0.0, mean - half_width), high=min(1.0, mean + half_width), events=events)


class _Open(msgspec.Struct, kw_only=True):
    """What was taken since the newest version."""

    ranges: list[Range] = []
    events: int = 0
    loss_sum: float = 0.0
    served_sum: float = 0.0
    cpu_s: float = 0.0
    held: int = 0


class _Saved(msgspec.Struct, frozen=True, kw_only=True):
    version: Version
    held: int
    rollbacks: int
    open: _Open


class Account:
    """The running account of one service."""

    def __init__(self, service: str) -> None:
        self._service = service
        self.version = Version(0)
        """What is served."""
        self.held = 0
        self.rollbacks = 0
        self._open = _Open()

    @property
    def holding(self) -> bool:
        """Whether updates were held back since the newest version."""
        return self._open.held > 0

    def enter(self, step: Step) -> tuple[list[Receipt], list[Fact]]:
        """Add one entry: the receipt of the version that it made, if it made one, and what operators should know."""
        since = self._open
        since.ranges = joined_ranges([*since.ranges, *step.ranges])
        since.events += step.events
        since.loss_sum += step.loss_sum
        since.served_sum += step.served_sum
        since.cpu_s += step.cpu_s
        if step.action == "advance":
            return [], []
        if step.action == "hold":
            self.held += 1
            since.held += 1
            first = since.held == 1
            held = Held(at=step.time, service=self._service, version=self.version, reason=step.verdict)
            return [], [held] if first else []
        parent = self.version
        receipt = Receipt(
            version=step.version,
            parent=parent,
            cause="start" if step.action == "start" else "rollback" if step.action == "roll_back" else "update",
            restores=step.restored,
            ranges=tuple(since.ranges),
            events=since.events,
            loss=bounded_mean(since.loss_sum, since.events) if since.events else None,
            parent_loss=bounded_mean(since.served_sum, since.events) if since.events else None,
            gain=_interval(step.gain),
            verdict=step.verdict,
            held=since.held,
            weights=step.weights,
            time=step.time,
            cpu_s=since.cpu_s,
        )
        self.version = step.version
        self._open = _Open()
        if step.action == "roll_back" and step.restored is not None:
            self.rollbacks += 1
            return [receipt], [
                RolledBack(
                    at=step.time,
                    service=self._service,
                    version=step.version,
                    withdrawn=parent,
                    restored=step.restored,
                    reason=step.verdict,
                )
            ]
        return [receipt], [
            Published(at=step.time, service=self._service, version=step.version, parent=parent, events=receipt.events)
        ]

    def save(self) -> dict[str, Any]:
        """Plain values that survive MessagePack."""
        saved = _Saved(version=self.version, held=self.held, rollbacks=self.rollbacks, open=self._open)
        plain: dict[str, Any] = msgspec.to_builtins(saved)
        return plain

    def load(self, state: dict[str, Any]) -> None:
        saved = msgspec.convert(state, _Saved)
        self.version, self.held, self.rollbacks = saved.version, saved.held, saved.rollbacks
        self._open = saved.open


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
