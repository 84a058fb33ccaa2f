"""Charges added up: what services, idleness and the house itself cost, and what a unit of work does.

As OpenCost has it: all that is paid for is workload, idle or overhead, and the three are the whole.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from penstock.control.meter.account import MACHINE, Charge

SERVING, LEARNING = "server", ("learner", "consolidator")
ROLES = (SERVING, *LEARNING)
"""Of what a service runs."""


class ServiceBill(msgspec.Struct, frozen=True, kw_only=True):
    """What one service has cost."""

    total: float
    by_resource: dict[str, float]
    by_role: dict[str, float]
    """``server``, ``learner``, ``consolidator``; storage stands under an empty name."""
    predictions: float
    learned: float
    per_1000_predictions: float | None
    """What serving cost for a thousand of them; null before the first, and where nobody says what serving cost."""
    per_million_learned: float | None


class Bill(msgspec.Struct, frozen=True, kw_only=True):
    """What everything has cost."""

    total: float
    workload: float
    idle: float
    """What the machine cost and nobody used."""
    overhead: float
    """What watching and keeping processes running cost."""
    services: dict[str, ServiceBill]


def bill_of(charges: Iterable[Charge]) -> Bill:
    """The sum of these charges."""
    each = list(charges)
    machine = sum(c.cost for c in each if c.resource == MACHINE)
    stored = sum(c.cost for c in each if c.resource == "storage")
    overhead = sum(c.cost for c in each if not c.service and c.resource != MACHINE)
    names = sorted({c.service for c in each if c.service})
    services = {name: _service(c for c in each if c.service == name) for name in names}
    workload = sum(one.total for one in services.values())
    # The disk is no part of the machine's price.
    idle = machine - (workload - stored) - overhead
    return Bill(total=machine + stored, workload=workload, idle=idle, overhead=overhead, services=services)


def _service(charges: Iterable[Charge]) -> ServiceBill:
    by_resource: dict[str, float] = {}
    by_role: dict[str, float] = {}
    counted = {"predictions": 0.0, "learned": 0.0}
    for each in charges:
        if each.resource in counted:
            counted[each.resource] += each.amount
        else:
            by_resource[each.resource] = by_resource.get(each.resource, 0.0) + each.cost
            by_role[each.role] = by_role.get(each.role, 0.0) + each.cost
    predictions, learned = counted["predictions"], counted["learned"]
    serving = by_role.get(SERVING)
    learning = sum(by_role.get(role, 0.0) for role in LEARNING) if by_role.keys() & {*LEARNING} else None
    return ServiceBill(
        total=sum(by_resource.values()),
        by_resource=by_resource,
        by_role=by_role,
        predictions=predictions,
        learned=learned,
        per_1000_predictions=None if serving is None or not predictions else 1e3 * serving / predictions,
        per_million_learned=None if learning is None or not learned else 1e6 * learning / learned,
    )
