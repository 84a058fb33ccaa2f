"""What versions cost: their share of what learning cost, and a point of quality only where one was gained."""

from __future__ import annotations

import datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.cli.versions import _readable
from penstock.control.ledger import Ledger, ledger_path
from penstock.control.meter.account import Charge, Metered
from penstock.events import Version
from penstock.gate.interface import Interval
from penstock.publish.interface import Consolidation, Receipt
from penstock.publish.notices.costs import Costs, read_costs, write_costs
from penstock.publish.records.priced import cost_of, per_point, priced

DAY = "2026-07-31"
NOON = datetime.datetime(2026, 7, 31, 12, tzinfo=datetime.UTC).timestamp()
COSTS = Costs(currency="EUR", learner={DAY: 0.5}, consolidator={"2026-07-29": 2.0, "2026-08-01": 9.0})


def receipt(cpu_s: float = 4.0, *, time: float = NOON, gain: Interval | None = None, base_s: float = 0.0) -> Receipt:
    made = Consolidation(
        number=1, cause="drift", trained=10, shadow_events=5, evidence=30.0, seconds=base_s, cpu_s=base_s
    )
    return Receipt(
        version=Version(7), parent=Version(6), cause="promotion" if base_s else "update", ranges=(), events=3,
        gain=gain, verdict="", time=time, cpu_s=cpu_s, consolidation=made if base_s else None,
    )  # fmt: skip


def gain(low: float, mean: float, high: float) -> Interval:
    return Interval(mean=mean, low=low, high=high, events=100)


def test_a_version_costs_its_share_of_the_day_and_its_base_what_training_cost_until_then() -> None:
    update = cost_of(receipt(), COSTS)
    assert (update.learning, update.training, update.total, update.currency) == (2.0, None, 2.0, "EUR")
    promoted = cost_of(receipt(base_s=10.0, gain=gain(0.01, 0.02, 0.04)), COSTS)
    assert (promoted.learning, promoted.training, promoted.total) == (2.0, 20.0, 22.0)
    assert promoted.per_point is not None
    assert (promoted.per_point.low, promoted.per_point.mean, promoted.per_point.high) == (5.5, 11.0, 22.0)


def test_what_nobody_counted_is_not_said_to_be_free() -> None:
    yesterday = cost_of(receipt(time=NOON - 86400.0, gain=gain(0.1, 0.2, 0.3)), COSTS)
    assert (yesterday.learning, yesterday.total, yesterday.per_point) == (None, None, None)
    untrained = cost_of(receipt(base_s=10.0), Costs(learner={DAY: 0.5}))
    assert (untrained.learning, untrained.training, untrained.total) == (2.0, None, None)


@given(st.floats(0.0, 1e3), st.floats(-1.0, 1.0), st.floats(0.0, 0.5), st.floats(0.0, 0.5))
def test_a_point_has_a_price_where_a_gain_is_shown_and_nowhere_else(
    cost: float, mean: float, below: float, above: float
) -> None:
    low = mean - below
    found = per_point(cost, gain(low, mean, mean + above))
    assert (found is None) == (low < 1e-9)
    if found is not None:
        assert found.low <= found.mean <= found.high
        assert found.mean * 100.0 * mean == pytest.approx(cost)
    assert per_point(cost, None) is None


def test_all_versions_of_a_day_cost_no_more_than_learning_did(tmp_path: Path) -> None:
    def charge(role: str, resource: str, amount: float, cost: float) -> Charge:
        return Charge(day=DAY, service="a", role=role, resource=resource, amount=amount, cost=cost)

    with Ledger(ledger_path(tmp_path)) as ledger:
        ledger.enter(
            Metered(),
            [
                charge("learner", "cpu", 50.0, 5.0),
                charge("learner", "memory", 900.0, 1.0),
                charge("server", "cpu", 70.0, 7.0),
                charge("consolidator", "memory", 70.0, 7.0),
                charge("", "learned", 70.0, 0.0),
            ],
        )
        assert ledger.per_second("a", "learner") == {DAY: pytest.approx(0.12)}
        assert ledger.per_second("a", "consolidator") == {}, "without processor time there is no price of it"
        costs = Costs(learner=ledger.per_second("a", "learner"))
    versions = [receipt(cpu_s) for cpu_s in (1.0, 30.0, 15.0)]
    assert sum(cost_of(each, costs).total or 0.0 for each in versions) <= 6.0


def test_a_receipt_is_told_with_its_cost_and_stays_what_it_is(tmp_path: Path) -> None:
    one = receipt(base_s=3.0, gain=gain(0.1, 0.2, 0.3))
    told = msgspec.to_builtins(priced(one, COSTS))
    assert told.pop("cost")["total"] == 8.0
    assert told.pop("withdrawn_by") is None
    assert told == msgspec.to_builtins(one)
    assert read_costs(tmp_path) == Costs()
    write_costs(tmp_path, COSTS)
    assert read_costs(tmp_path) == COSTS
    (tmp_path / "costs.json").write_bytes(b"{")
    assert read_costs(tmp_path) == Costs()


def test_why_says_what_a_version_cost_and_each_point_only_where_there_is_one() -> None:
    def said(one: Receipt, costs: Costs = COSTS) -> tuple[str, str | None]:
        shown = _readable(msgspec.json.decode(msgspec.json.encode(priced(one, costs))))
        return shown["cost_shown"], shown["per_point_shown"]

    assert said(receipt()) == ("2 EUR", None)
    shown = "22 EUR: its base 20, learning 2"
    assert said(receipt(base_s=10.0, gain=gain(0.01, 0.02, 0.04))) == (shown, "11 EUR (5.5 to 22)")
    assert said(receipt(base_s=10.0, gain=gain(-0.01, 0.02, 0.04))) == (shown, "no gain is shown")
    assert said(receipt(gain=gain(0.01, 0.02, 0.04)), Costs()) == ("not counted", None)
