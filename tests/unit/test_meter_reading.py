"""Figures of another system: read twice, restated, late or lost, a day costs what was said of it last."""

from __future__ import annotations

import datetime
import random
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.control.budget.ladder import Standing, decide
from penstock.control.ledger import Ledger, ledger_path
from penstock.control.meter.account import Metered, Outside, WordOnDay, charge, count
from penstock.control.meter.bill import bill_of
from penstock.control.meter.rates import Capacity, rates_told
from penstock.control.meter.reading import Allocation, Reading, days_due, missing, owner, restate
from penstock.control.meter.sample import Counts, Process, Sample
from penstock.control.portfolio import check_names, read_portfolio
from penstock.errors import BadFile
from penstock.publish.notices.allowance import HEIGHT, RUNGS, Rung
from penstock.testing.memory_meter import MemoryMeter
from penstock.testing.meter_conformance import MeterConformance

NOON = datetime.datetime(2026, 7, 31, 12, tzinfo=datetime.UTC).timestamp()
DAY_S = 86400.0
DAYS = ("2026-07-29", "2026-07-30", "2026-07-31")
SERVICES = ("shop", "fraud")
HERE = Capacity(cores=2, memory_gib=8)


def reading(at: float, costs: dict[str, float], *, day: str = "2026-07-31", idle: float = 0.0) -> Reading:
    """What was said at this time after noon of what each had cost."""
    allocations = tuple(
        Allocation(
            name=name,
            by_resource={"cpu": cost / 2, "storage": cost / 4, "other": cost / 4},
            amounts={"cpu": 100.0 * cost},
            ran_s=3600.0,
            until=NOON + at,
        )
        for name, cost in costs.items()
    )
    return Reading(day=day, at=NOON + at, allocations=allocations, idle=idle)


def read(*readings: Reading, before: Metered | None = None) -> Metered:
    metered = before or Metered()
    for each in readings:
        metered, _ = restate(metered, each, SERVICES, {})
    return metered


@given(st.integers(0, 2**32))
def test_whatever_is_read_in_whatever_order_a_day_costs_what_was_said_of_it_last(seed: int) -> None:
    draw = random.Random(seed)
    said = []
    for number in range(draw.randint(1, 10)):
        costs = {name: draw.uniform(0.0, 9.0) for name in (*SERVICES, "others") if draw.random() < 0.7}
        said.append(reading(60.0 * number, costs, day=draw.choice(DAYS), idle=draw.uniform(0.0, 2.0)))
    heard = [draw.choice(said) for _ in range(2 * len(said))]
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        with Ledger(ledger_path(Path(folder))) as ledger:
            for each in heard:
                metered, restated = restate(ledger.metered(), each, SERVICES, {})
                if restated is not None:
                    ledger.restate(metered, restated)
            for service in SERVICES:
                for day in DAYS:
                    assert ledger.spent(service, day) == pytest.approx(_said_last(heard, service, day))
            bill = bill_of(ledger.charges())
        assert bill.workload + bill.idle + bill.overhead == pytest.approx(bill.total)
        counted = {day: _newest(heard, day).idle for day in DAYS if any(each.day == day for each in heard)}
        assert bill.idle == pytest.approx(sum(counted.values()))


def _said_last(heard: list[Reading], service: str, day: str) -> float:
    """Of the words that were newer than all before them, the last that knew the service."""
    newest, cost = 0.0, 0.0
    for each in heard:
        if each.day == day and each.at > newest:
            newest = each.at
            costs = {one.name: sum(one.by_resource.values()) for one in each.allocations}
            cost = costs.get(service, cost)
    return cost


def _newest(heard: list[Reading], day: str) -> Reading:
    return max((each for each in heard if each.day == day), key=lambda each: each.at)


def test_what_was_counted_here_before_gives_way_on_the_day_of_the_change_and_comes_back_after_it(
    tmp_path: Path,
) -> None:
    def sample(at: float, cpu_s: float) -> Sample:
        up = Process(key="up", parent="", service="", role="supervisor", started=NOON, cpu_s=1.0)
        learner = Process(key="l", parent="up", service="shop", role="learner", started=NOON, cpu_s=cpu_s)
        return Sample(at=NOON + at, house="up", processes=(up, learner), counts={"shop": Counts(predictions=cpu_s)})

    rates = rates_told("USD", "a test", HERE)
    with Ledger(ledger_path(tmp_path)) as ledger:
        for at, cpu_s in ((1.0, 0.0), (61.0, 30.0)):
            ledger.enter(*charge(ledger.metered(), sample(at, cpu_s), rates))
        metered, restated = restate(ledger.metered(), reading(100.0, {"shop": 8.0}, idle=1.0), SERVICES, {})
        assert restated is not None
        ledger.restate(metered, restated)
        ledger.enter(*count(ledger.metered(), sample(120.0, 50.0)))
        assert ledger.spent("shop", "2026-07") == pytest.approx(8.0)
        shop = bill_of(ledger.charges()).services["shop"]
        assert shop.predictions == 50.0, "what was done is counted here, before and after"
        assert shop.per_1000_predictions is None, "nobody has said what serving alone costs"
        assert not any(each.amount == 30.0 for each in ledger.charges())
        before = len(ledger.charges())
        ledger.enter(*charge(ledger.metered(), sample(130.0, 55.0), rates))
        assert len(ledger.charges()) > before


def test_a_name_says_whose_it_is_or_is_told_it() -> None:
    names = {"gpu-pool-7": "fraud/learner"}
    found = {
        name: owner(name, SERVICES, names)
        for name in (
            "shop",
            "app=shop",
            "deployment:shop",
            "prod/app=shop/role=learner",
            "gpu-pool-7",
            "__unallocated__",
        )
    }
    assert found == {
        "shop": ("shop", ""),
        "app=shop": ("shop", ""),
        "deployment:shop": ("shop", ""),
        "prod/app=shop/role=learner": ("shop", "learner"),
        "gpu-pool-7": ("fraud", "learner"),
        "__unallocated__": ("", ""),
    }
    told = missing(reading(0.0, {"shop": 1.0, "shpo": 1.0}), SERVICES, {})
    assert told == "on 2026-07-31 nothing is named fraud; there are shpo"
    assert not missing(reading(0.0, {"shop": 1.0, "gpu-pool-7": 1.0}), SERVICES, names)


def test_of_a_service_of_which_a_part_is_not_known_nothing_is_taken_back() -> None:
    before = read(reading(0.0, {"shop/server": 1.0, "shop/learner": 2.0, "fraud": 1.0}))
    said = msgspec.structs.replace(
        reading(60.0, {"shop/server": 1.5, "fraud": 2.0}),
        faults={"shop/learner": "its cost is no number", "others": "its cost is -3, less than nothing"},
    )
    after, restated = restate(before, said, SERVICES, {})
    assert restated is not None
    assert restated.services == {"fraud"}
    assert after.outside.until == {"shop": NOON, "fraud": NOON + 60.0}, "shop waits to be counted"
    assert missing(said, SERVICES, {}) == "on 2026-07-31 shop/learner: its cost is no number"


def test_speed_is_what_today_has_grown_and_no_restatement_of_another_day() -> None:
    first = read(reading(0.0, {"shop": 3.6}))
    assert first.slow["shop"].per_s == pytest.approx(3.6 / 3600.0), "a first word has an hour behind it"
    then = read(reading(60.0, {"shop": 3.72}), before=first)
    assert then.fast["shop"].per_s > first.fast["shop"].per_s
    after = read(reading(120.0, {"shop": 500.0}, day="2026-07-30"), before=then)
    assert after.fast == then.fast
    fallen = read(reading(180.0, {"shop": 1.0}), before=after)
    assert 0.0 <= fallen.fast["shop"].per_s < then.fast["shop"].per_s, "less than before is not earned"
    tomorrow = read(reading(13 * 3600.0, {"shop": 7.2}, day="2026-08-01"), before=fallen)
    assert tomorrow.fast["shop"].per_s == pytest.approx(7.2 / 3600.0, rel=0.01)


def test_days_are_asked_for_until_nothing_new_can_be_said_of_them() -> None:
    def outside(**at: float) -> Outside:
        days = {day.replace("_", "-").lstrip("d"): WordOnDay(at=NOON + when, totals={}) for day, when in at.items()}
        return Outside(days=days)

    assert days_due(Outside(), NOON) == ["2026-07-31"], "what was before is as it was counted"
    assert days_due(outside(d2026_07_31=-60.0), NOON) == ["2026-07-31"]
    in_time = outside(d2026_07_30=-13 * 3600.0, d2026_07_31=-60.0)
    assert days_due(in_time, NOON) == ["2026-07-31", "2026-07-30"], "nobody has seen its end"
    assert days_due(outside(d2026_07_30=-1800.0, d2026_07_31=-60.0), NOON) == ["2026-07-31"]
    assert days_due(outside(d2026_07_30=-3600.0, d2026_07_31=-60.0), NOON) == ["2026-07-31", "2026-07-30"]
    assert days_due(outside(d2026_07_24=-7 * DAY_S), NOON) == [f"2026-07-{day}" for day in range(31, 23, -1)]
    assert len(days_due(outside(d2025_07_24=-372 * DAY_S), NOON)) == 36, "a month is made up for, and no year"


def test_a_new_house_has_spent_nothing_while_it_was_down_and_a_killed_governor_goes_on() -> None:
    def sample(house: str, at: float) -> Sample:
        return Sample(at=NOON + at, house=house, processes=(), counts={"shop": Counts()})

    begun, _ = count(Metered(), sample("up", 0.0))
    assert begun.outside.until == {"shop": NOON}
    known = read(reading(50.0, {"shop": 1.0}), before=begun)
    same, _ = count(known, sample("up", 500.0))
    assert same.outside.until == {"shop": NOON + 50.0}
    new, _ = count(known, sample("up again", 500.0))
    assert new.outside.until == {"shop": NOON + 500.0}
    gone = Sample(at=NOON + 501.0, house="up again", processes=(), counts={"fraud": Counts()})
    assert count(new, gone)[0].outside.until == {"fraud": NOON + 501.0}, "nobody waits for what does not run"
    assert new.fast == known.fast, "what was not heard of has not come to rest"


@given(st.sampled_from(RUNGS), st.floats(0.0, 2.0), st.booleans())
def test_who_does_not_know_what_is_spent_learns_nothing_and_goes_on_answering(
    rung: Rung, spent: float, may_stop: bool
) -> None:
    standings = [Standing(period="day", key="2026-07-31", limit=1.0, spent=spent)]
    seeing = decide(rung, standings, may_stop=may_stop).rung
    blind = decide(rung, standings, may_stop=may_stop, blind="it is down").rung
    assert HEIGHT[blind] == max(HEIGHT[seeing], HEIGHT["pause_learning"])
    assert decide(rung, [], may_stop=may_stop, blind="it is down") == decide(rung, [], may_stop=may_stop)
    assert decide("free", standings[:1], may_stop=False, blind="it is down").why == "it is down" or spent >= 0.95


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("meter: {opencost: {url: 'opencost:9003/allocation'}}", "is an address such as"),
        ("meter: {opencost: {url: 'http://me:word@oc/allocation'}}", "PENSTOCK_METER_TOKEN"),
        ("meter: {opencost: {url: 'http://oc:9003'}}", "ends with /allocation"),
        ("meter: {opencost: {url: 'http://oc/allocation?window=1d'}}", "ends with /allocation"),
        ("meter: {opencost: {url: 'http://oc/allocation', aggregate: ' '}}", "label:app"),
        ("per_hour: 2\nmeter: {opencost: {url: 'http://oc/allocation'}}", "per_hour would count for nothing"),
        ("meter: {opencost: {url: 'http://oc/allocation', colour: red}}", "colour"),
        ("meter: {every_s: .inf, opencost: {url: 'http://oc/allocation'}}", "<= 86400"),
        ("meter: {every_s: .nan, opencost: {url: 'http://oc/allocation'}}", "every_s"),
        ("meter: {kubecost: {url: 'http://oc/allocation'}}", "kubecost"),
    ],
)
def test_a_meter_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "budget.yaml"
    file.write_text(text)
    with pytest.raises(BadFile, match=told):
        read_portfolio(file, HERE)


def test_an_allocation_of_a_service_that_there_is_not_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "budget.yaml"
    file.write_text("meter: {names: {gpu: shpo/learner}, opencost: {url: 'http://oc/allocation'}}")
    portfolio = read_portfolio(file, HERE).portfolio
    check_names(file, portfolio, ["shpo"])
    with pytest.raises(BadFile, match="'gpu' belongs to 'shpo/learner'; the services here: shop, fraud"):
        check_names(file, portfolio, SERVICES)


def test_a_meter_says_its_currency_and_where_it_is(tmp_path: Path) -> None:
    file = tmp_path / "budget.yaml"
    file.write_text("per_day: 5\nmeter: {currency: EUR, opencost: {url: 'http://oc:9003/allocation/compute'}}")
    rates = read_portfolio(file, HERE).rates
    assert (rates.currency, rates.source, rates.machine_h) == (
        "EUR",
        "OpenCost at http://oc:9003/allocation/compute",
        0.0,
    )


class Remembered:
    """The memory twin."""

    def __init__(self) -> None:
        self.meter = MemoryMeter()

    def spend(self, day: str, name: str, cost: float) -> None:
        self.meter.costs[day] = {**self.meter.costs.get(day, {}), name: cost}

    def wait(self, seconds: float) -> None:
        self.meter.at += seconds

    def fail(self) -> None:
        self.meter.fault = "it sleeps"


class TestMemoryMeter(MeterConformance):
    @pytest.fixture
    def counting(self) -> Remembered:
        return Remembered()
