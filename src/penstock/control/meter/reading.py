"""What another system says a day has cost becomes charges: the newest word on a day takes the place of the one before.

Figures of the same day are asked for again and again while it lasts, and for some days after, since they are restated
when a provider's bill is known. So nothing is added up here: whatever is read twice, late, or changed, a day costs what
was said of it last.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from datetime import UTC, date, datetime, timedelta

import msgspec

from penstock.control.meter.account import FAST_S, SLOW_S, Charge, Metered, Outside, Pace
from penstock.control.meter.bill import ROLES

RESTATED_DAYS = 3
"""Days after which a figure is taken to be final: Kubecost matches its own with a provider's bill within 48 hours."""
RESTATED_EVERY_S = 3600.0
MISSED_DAYS = 35
"""Days that are made up for when nothing was read meanwhile: a month."""
NAMED_MAX = 5
"""Names that a message lists."""


class Allocation(msgspec.Struct, frozen=True, kw_only=True):
    """What one of those who share a cluster has cost."""

    name: str
    """As the other system calls it."""
    by_resource: dict[str, float]
    """All that it cost, taken apart."""
    amounts: dict[str, float] = {}
    """Core seconds, GiB seconds and device seconds, of the resources that have such."""
    ran_s: float
    until: float
    """Seconds since 1970 up to which it was counted."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What was said of a day in UTC."""

    day: str
    at: float
    """When it was asked for, in seconds since 1970."""
    allocations: tuple[Allocation, ...]
    idle: float = 0.0
    """What was paid for and nobody had."""
    faults: dict[str, str] = {}
    """Why some allocations, by their names, are not among these: what was said of them cannot be charged."""


class Restatement(msgspec.Struct, frozen=True, kw_only=True):
    """What stands in the place of everything that these services were charged for on that day."""

    day: str
    services: frozenset[str]
    charges: tuple[Charge, ...]
    idle: float


def days_due(outside: Outside, now: float) -> list[str]:
    """The days to ask for at this time, today first: it must not wait for a day that cannot be read. Then those that
    nobody has seen the end of, and once an hour those that may be restated. Days before the first that was read stay as
    they were counted."""
    today = _date(now)
    newest = max(outside.days, default=today.isoformat())
    first = min(today - timedelta(days=RESTATED_DAYS), date.fromisoformat(newest))
    first = max(first, today - timedelta(days=MISSED_DAYS))
    due = [today.isoformat()]
    for back in range(1, (today - first).days + 1):
        day = today - timedelta(days=back)
        word = outside.days.get(day.isoformat())
        if word is None and day.isoformat() < newest:
            continue
        ended = datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() + 86400.0
        if word is None or word.at < ended or word.at + RESTATED_EVERY_S <= now:
            due.append(day.isoformat())
    return due


def restate(
    before: Metered, reading: Reading, services: Collection[str], names: Mapping[str, str]
) -> tuple[Metered, Restatement | None]:
    """What to remember, and what the day costs from now on; None where something newer was said of it already.

    ``names`` says to whom an allocation belongs whose name does not say it: ``service`` or ``service/role``. A service
    that the reading does not know keeps what it was charged: what has run on a day has run on it."""
    outside, day = before.outside, reading.day
    known = outside.days.get(day)
    if known is not None and reading.at <= known.at:
        return before, None
    costs: dict[tuple[str, str, str], tuple[float, float]] = {}
    ran_s: dict[str, float] = {}
    until = dict(outside.until)
    # Of a service of which a part is not known, the rest is not all that it cost.
    doubted = {owner(name, services, names)[0] for name in reading.faults}
    for allocation in reading.allocations:
        service, role = owner(allocation.name, services, names)
        if not service or service in doubted:
            continue
        for resource, cost in allocation.by_resource.items():
            amount, so_far = costs.get((service, role, resource), (0.0, 0.0))
            key = service, role, resource
            costs[key] = amount + allocation.amounts.get(resource, 0.0), so_far + cost
        ran_s[service] = max(ran_s.get(service, 0.0), allocation.ran_s)
        until[service] = max(until.get(service, 0.0), min(allocation.until, reading.at))
    totals = {name: sum(cost for (service, _, _), (_, cost) in costs.items() if service == name) for name in ran_s}
    told = outside.told(day, reading.at, totals)
    fast, slow = _paces(before, reading, totals, ran_s) if day == max(told.days) else (before.fast, before.slow)
    after = msgspec.structs.replace(before, fast=fast, slow=slow, outside=msgspec.structs.replace(told, until=until))
    charges = tuple(
        Charge(day=day, service=service, role=role, resource=resource, amount=amount, cost=cost)
        for (service, role, resource), (amount, cost) in costs.items()
        if cost or amount
    )
    return after, Restatement(day=day, services=frozenset(ran_s), charges=charges, idle=reading.idle)


def owner(name: str, services: Collection[str], names: Mapping[str, str]) -> tuple[str, str]:
    """The service and the role to which an allocation belongs; empty where that is none of ours, or not said. Names
    such as ``shop``, ``app=shop``, ``deployment:shop`` and ``prod/shop/learner`` say it themselves."""
    parts = [part.rpartition("=")[2].rpartition(":")[2] for part in names.get(name, name).split("/")]
    service = next((part for part in parts if part in services), "")
    return service, next((part for part in parts if part in ROLES and part != service), "")


def missing(reading: Reading, services: Collection[str], names: Mapping[str, str]) -> str:
    """Of which services the reading does not say what they cost, in words; empty where it does of all."""
    of = {
        name: owner(name, services, names)[0]
        for name in (*(each.name for each in reading.allocations), *reading.faults)
    }
    told = [f"{name}: {fault}" for name, fault in sorted(reading.faults.items()) if of[name]]
    if lacking := sorted(set(services) - set(of.values())):
        others = sorted(name for name, service in of.items() if not service)
        more = f" and {len(others) - NAMED_MAX} more" if len(others) > NAMED_MAX else ""
        there = f"there are {', '.join(others[:NAMED_MAX])}{more}" if others else "there is nothing else"
        told.append(f"nothing is named {', '.join(lacking)}; {there}")
    return f"on {reading.day} {'; '.join(told)}" if told else ""


def _paces(
    before: Metered, reading: Reading, totals: Mapping[str, float], ran_s: Mapping[str, float]
) -> tuple[dict[str, Pace], dict[str, Pace]]:
    """How fast is spent, by what the newest day has grown since it was read last; at first by all of it."""
    known = before.outside.days.get(reading.day)
    began = datetime.fromisoformat(reading.day).replace(tzinfo=UTC).timestamp()
    fast, slow = dict(before.fast), dict(before.slow)
    for name, total in totals.items():
        if known is not None and name in known.totals:
            grown, passed_s = max(0.0, total - known.totals[name]), reading.at - known.at
        else:
            # A clock may be set back between the choice of a day and the question.
            grown, passed_s = total, max(0.0, min(ran_s[name] or math.inf, reading.at - began))
        fast[name] = fast.get(name, Pace()).after(grown, passed_s, FAST_S)
        slow[name] = slow.get(name, Pace()).after(grown, passed_s, SLOW_S)
    return fast, slow


def _date(at: float) -> date:
    return datetime.fromtimestamp(at, UTC).date()
