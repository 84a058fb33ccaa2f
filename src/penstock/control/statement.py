"""What `penstock budget show` says: read from the ledger, whether anything runs or not."""

from __future__ import annotations

from pathlib import Path

import msgspec

from penstock.control.budget.alerts import Alert
from penstock.control.budget.limits import PORTFOLIO, Change, current, in_force
from penstock.control.changes import waiting
from penstock.control.ledger import Ledger, pace_of
from penstock.control.meter.account import Outside
from penstock.control.meter.bill import Bill, ServiceBill, bill_of
from penstock.control.meter.forecast import PeriodName, period_of
from penstock.control.portfolio import limits_of, read_house
from penstock.control.record import recorded
from penstock.errors import UnknownService
from penstock.facts import Promoted, Throttled
from penstock.gate.interface import Interval
from penstock.publish.notices.allowance import Limit
from penstock.publish.records.priced import per_point
from penstock.publish.records.receipts import SqliteReceipts

PROMOTIONS_MAX = 1000
"""Of a month that are looked at."""


class Scope(msgspec.Struct, frozen=True, kw_only=True):
    """A service, or all of them."""

    scope: str
    rung: str
    why: str
    since: float | None
    day: Limit
    month: Limit
    per_hour: float
    per_1000_predictions: float | None = None
    per_million_learned: float | None = None
    per_point: Interval | None = None
    """What all trainings of this month cost, those in vain as well, for each hundredth of the loss that promoted bases
    were shown to gain in it; null where none was."""
    changes: tuple[Change, ...]
    """Those that count now."""

    @property
    def is_spent(self) -> bool:
        """Whether one of its limits is."""
        return any(each.limit is not None and each.spent >= each.limit for each in (self.day, self.month))


class Statement(msgspec.Struct, frozen=True, kw_only=True):
    """The whole frame."""

    currency: str
    machine: str
    """Whose price is counted with, or who counts."""
    counted_until: float | None
    """Up to when another system has counted all services; null where none does."""
    meter_fault: str
    """Why nothing is heard of it; empty while it answers."""
    scopes: list[Scope]
    today: Bill
    month: Bill
    decisions: list[Throttled]
    """The newest first."""
    alerts: list[Alert]
    owed: int
    """Alerts that are still to be delivered, by all channels."""
    waiting: list[Change]
    """Changes that the ledger does not have yet."""


def statement(data: Path, ledger: Ledger, only: str | None, now: float) -> Statement:
    """As of now; of one scope, or of all. Raises UnknownService, BadFile and LedgerUnavailable."""
    house, changes, metered = read_house(data), ledger.changes(), ledger.metered()
    services = sorted(path.parent.name for path in data.glob("*/service.json"))
    if only is not None and only not in (*services, PORTFOLIO):
        raise UnknownService(name=only, known=", ".join([*services, PORTFOLIO]))
    today, month = (bill_of(ledger.charges(period_of(name, now).key)) for name in _PERIODS)
    scopes = []
    for scope in [only] if only is not None else [*services, PORTFOLIO]:
        file = house.portfolio.limits if scope == PORTFOLIO else limits_of(recorded(data, scope))
        limits = in_force(scope, file, changes, now)
        pace = pace_of(scope, metered.slow)
        day, in_month = ledger.limits(scope, limits, pace, now)
        last = next(iter(ledger.decisions(scope, newest=1)), None)
        billed = month.services.get(scope)
        scopes.append(
            Scope(
                scope=scope,
                rung="free" if last is None else last.after,
                why="" if last is None else last.reason,
                since=None if last is None else last.at,
                day=day,
                month=in_month,
                per_hour=3600.0 * pace.per_s,
                per_1000_predictions=billed.per_1000_predictions if billed else None,
                per_million_learned=billed.per_million_learned if billed else None,
                per_point=_per_point(data, scope, billed, now),
                changes=tuple(current(scope, changes, now)),
            )
        )
    alerts = [alert for alert in ledger.alerts() if only in (None, alert.scope)]
    outside = metered.outside if house.portfolio.meter is not None else Outside()
    return Statement(
        currency=house.rates.currency,
        machine=house.rates.source,
        counted_until=min((outside.until[name] for name in services if name in outside.until), default=None),
        meter_fault=outside.fault,
        scopes=scopes,
        today=today,
        month=month,
        decisions=ledger.decisions(only, newest=100),
        alerts=alerts[-100:],
        owed=len(ledger.owed()),
        waiting=[change for _, change in waiting(data)],
    )


_PERIODS: tuple[PeriodName, ...] = ("day", "month")


def _per_point(data: Path, service: str, billed: ServiceBill | None, now: float) -> Interval | None:
    """Gains add up: each base was compared with what was served before it."""
    trained = None if billed is None else billed.by_role.get("consolidator")
    if trained is None:
        return None
    receipts = SqliteReceipts(data / service / "versions.sqlite", service, read_only=True)
    try:
        promoted = [fact for fact in receipts.facts(PROMOTIONS_MAX, ("promoted",)) if isinstance(fact, Promoted)]
        began = now - period_of("month", now).past_s
        gains = [receipts.receipt(fact.version).gain for fact in promoted if fact.at >= began]
    finally:
        receipts.close()
    shown = [gain for gain in gains if gain is not None and gain.low > 0.0]
    if not shown:
        return None
    mean, low, high = (sum(getattr(gain, bound) for gain in shown) for bound in ("mean", "low", "high"))
    return per_point(trained, Interval(mean=mean, low=low, high=high, events=sum(gain.events for gain in shown)))
