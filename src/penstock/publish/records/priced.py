"""What versions have cost: a measurement beside their receipts, of which nothing that is hashed or rebuilt knows.

A receipt has the processor time that its version took. What a second of it cost is written by whoever watches the
money, day by day: all that learning cost on a day, over all the processor time that learning took on it. So a version
bears its share of the memory and devices that the learner held as well, and all versions of a day together no more than
learning cost on it.
"""

from __future__ import annotations

from datetime import UTC, datetime

import msgspec

from penstock.events import Version
from penstock.gate.interface import Interval
from penstock.publish.interface import Receipt
from penstock.publish.notices.costs import Costs

POINTS = 100.0
"""Points of quality in a loss of one: losses lie between 0 and 1, and a point is a hundredth."""
GAIN_MIN = 1e-9
"""Of a loss; less is no gain that anybody could tell from rounding."""


class VersionCost(msgspec.Struct, frozen=True, kw_only=True):
    """What a version has cost; what nobody has counted is null."""

    currency: str
    learning: float | None
    """Learning from the events since its parent."""
    training: float | None
    """Training its base, where it is the first on it; what was trained in vain before is not in it."""
    total: float | None
    per_point: Interval | None
    """For each point by which the loss is less than that of what it was compared with: at the mean of the gain that the
    gate has measured, and at the bounds of its interval. Null where that shows no gain."""


class Priced(Receipt, frozen=True, kw_only=True):
    """A receipt, and what is known of the version since: what it has cost as far as that was counted, and whether it
    was withdrawn."""

    cost: VersionCost | None = None
    withdrawn_by: Version | None = None
    """The version with which something older was served again, if that has happened since."""


def priced(receipt: Receipt, costs: Costs, withdrawn_by: Version | None = None) -> Priced:
    """The receipt with its cost."""
    # Of the receipt's own fields one by one, since what they hold is to stay what it is.
    fields = {name: getattr(receipt, name) for name in receipt.__struct_fields__}
    return Priced(**fields, cost=cost_of(receipt, costs), withdrawn_by=withdrawn_by)


def cost_of(receipt: Receipt, costs: Costs) -> VersionCost:
    """What this version has cost, at the prices of the day on which it was published."""
    day = datetime.fromtimestamp(receipt.time, UTC).date().isoformat()
    second = costs.learner.get(day)
    learning = None if second is None else second * receipt.cpu_s
    training = None
    if receipt.consolidation is not None:
        # It was trained on that day or before: the newest price of a training until then.
        days = [each for each in costs.consolidator if each <= day]
        training = costs.consolidator[max(days)] * receipt.consolidation.cpu_s if days else None
    lacks = learning is None or (receipt.consolidation is not None and training is None)
    total = None if lacks else (learning or 0.0) + (training or 0.0)
    return VersionCost(
        currency=costs.currency,
        learning=learning,
        training=training,
        total=total,
        per_point=None if total is None else per_point(total, receipt.gain),
    )


def per_point(cost: float, gain: Interval | None) -> Interval | None:
    """What each point of a gain cost, or None where no gain is shown: an interval that reaches down to nothing says
    that it may have cost any amount."""
    if gain is None or gain.low < GAIN_MIN:
        return None
    points = (POINTS * bound for bound in (gain.mean, gain.low, gain.high))
    mean, most, least = (cost / each for each in points)
    return Interval(mean=mean, low=least, high=most, events=gain.events)
