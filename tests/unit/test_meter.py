"""The meter: counters become charges, each once, and the charges of a house are the whole of what it costs."""

from __future__ import annotations

import datetime
import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.control.meter.account import FAST_S, Charge, Metered, Pace, charge
from penstock.control.meter.bill import bill_of
from penstock.control.meter.forecast import forecast, period_of
from penstock.control.meter.rates import Capacity, Rates, nearest, rates_of
from penstock.control.meter.sample import Counts, Process, Sample
from penstock.control.portfolio import read_portfolio
from penstock.control.prices.catalogue import builtin
from penstock.errors import BadFile, UnknownMachine

HERE = Capacity(cores=2, memory_gib=8)
RATES = rates_of(builtin(), HERE)
START = datetime.datetime(2026, 7, 31, 12, tzinfo=datetime.UTC).timestamp()


def process(key: str, parent: str = "up", **more: object) -> Process:
    given = {"service": "", "role": "server", "started": START, "cpu_s": 0.0}
    return msgspec.convert({"key": key, "parent": parent, **given, **more}, Process)


def sample(at: float, *processes: Process, **more: object) -> Sample:
    up = process("up", "", role="supervisor")
    there = processes if any(each.key == "up" for each in processes) else (up, *processes)
    return Sample(at=START + at, house="up", processes=there, **more)  # type: ignore[arg-type]


def charged(samples: Sequence[Sample]) -> list[Charge]:
    metered, charges = Metered(), []
    for each in samples:
        metered, more = charge(metered, each, RATES)
        charges += more
    return charges


def total(charges: Sequence[Charge], resource: str, **where: str) -> float:
    chosen = [c for c in charges if c.resource == resource and all(getattr(c, k) == v for k, v in where.items())]
    return sum(c.amount for c in chosen)


def learner(cpu_s: float, **more: object) -> Process:
    return process("l1", service="a", role="learner", cpu_s=cpu_s, **more)


def test_a_sample_that_comes_twice_or_late_charges_nothing_and_one_that_is_lost_is_made_good() -> None:
    all_ = [sample(t, learner(t / 2.0, memory_gib=1.0)) for t in range(1, 11)]
    for some in (all_, [all_[0], all_[0], all_[4], all_[3], all_[9], all_[9]]):
        charges = charged(some)
        assert total(charges, "cpu") == pytest.approx(5.0)
        assert total(charges, "memory") == pytest.approx(10.0)


@pytest.mark.parametrize("jump", [-3600.0, -365 * 86400.0, 365 * 86400.0])
def test_a_clock_that_is_set_in_between_changes_nothing_of_what_is_charged(jump: float) -> None:
    """Counting goes on at once, and a year that did not pass costs nothing."""
    samples = []
    for t in range(1, 11):
        seen = sample(t + (jump if t > 5 else 0.0), learner(t / 2.0, memory_gib=1.0))
        samples.append(msgspec.structs.replace(seen, elapsed=100.0 + t))
    charges = charged(samples)
    assert total(charges, "cpu") == pytest.approx(5.0)
    assert total(charges, "memory") == pytest.approx(10.0)
    assert total(charges, "machine") == pytest.approx(10.0)
    after = datetime.datetime.fromtimestamp(START + jump, datetime.UTC).date().isoformat()
    assert {c.day for c in charges} == {"2026-07-31", after}


def test_a_house_that_begins_before_the_last_one_ended_by_a_clock_set_back_is_counted() -> None:
    again = process("up2", "", role="supervisor", started=START - 3700.0, cpu_s=2.0)
    earlier = Sample(at=START - 3600.0, house="up2", processes=(again,))
    assert total(charged([sample(10), earlier]), "cpu", role="supervisor") == pytest.approx(2.0)


def test_what_a_process_used_after_its_last_look_is_charged_from_who_waited_for_it() -> None:
    up = process("up", "", role="supervisor")
    died = process("up", "", role="supervisor", reaped_cpu_s=7.0)
    again = process("l2", service="a", role="learner", cpu_s=0.5)
    charges = charged([sample(1, up, learner(4.0)), sample(2, died, again), sample(3, died, again)])
    assert total(charges, "cpu", service="a", role="learner") == pytest.approx(7.5)


def test_a_child_of_a_child_that_died_with_it_is_charged_once() -> None:
    fork = process("l1f", "l1", service="a", role="learner", cpu_s=100.0)
    first = sample(1, process("up", "", role="supervisor"), learner(1.0), fork)
    waited = sample(2, process("up", "", role="supervisor", reaped_cpu_s=1.2 + 100.3))
    orphaned = sample(2, process("up", "", role="supervisor", reaped_cpu_s=1.2))
    assert total(charged([first, waited]), "cpu") == pytest.approx(101.5)
    assert total(charged([first, orphaned]), "cpu") == pytest.approx(101.2)


def test_a_training_that_begins_and_ends_between_two_looks_is_charged_to_who_started_it() -> None:
    before, after = (process("c", service="a", role="consolidator", cpu_s=1.0, reaped_cpu_s=s) for s in (0.0, 9.0))
    charges = charged([sample(1, before), sample(2, after)])
    assert total(charges, "cpu", role="consolidator") == pytest.approx(10.0)


def test_a_new_house_begins_to_cost_when_it_began() -> None:
    again = process("up2", "", role="supervisor", started=START + 90.0)
    later = Sample(at=START + 100.0, house="up2", processes=(again,))
    assert total(charged([sample(10), later]), "machine") == pytest.approx(10.0 + 10.0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("per_hour: .inf", "per_hour"),
        ("per_hour: .nan", "per_hour"),
        ("per_day: -1", ">= 0"),
        ("per_month: .inf", "per_month"),
        ("alert_at: [.inf]", "alert_at"),
        ("alert_at: [0]", "alert_at"),
        ("alert_webhook: nowhere", "https://server/path, not 'nowhere'"),
        ("[]", "got `array`"),
        ("false", "got `bool`"),
    ],
)
def test_a_budget_file_that_cannot_be_meant_is_refused(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "budget.yaml"
    file.write_text(text)
    with pytest.raises(BadFile, match=told):
        read_portfolio(file, HERE)


def test_a_budget_file_of_comments_alone_limits_nothing(tmp_path: Path) -> None:
    file = tmp_path / "budget.yaml"
    file.write_text("# per_day: 5")
    assert read_portfolio(file, HERE).portfolio.per_day is None


def test_what_all_services_share_is_split_as_they_are_asked() -> None:
    def counts(a: float, b: float) -> dict[str, Counts]:
        return {"a": Counts(predictions=a), "b": Counts(predictions=b)}

    charges = charged(
        [sample(1, process("s"), counts=counts(0, 0)), sample(2, process("s", cpu_s=1.0), counts=counts(30, 10))]
    )
    assert total(charges, "cpu", service="a") == pytest.approx(0.75)
    assert total(charges, "predictions", service="a") == 30
    assert bill_of(charges).services["b"].per_1000_predictions == pytest.approx(0.25 * RATES.core_h / 3600.0 / 10 * 1e3)


def test_four_quarters_of_a_device_are_one_device() -> None:
    rates = rates_of(builtin(), Capacity(cores=4, memory_gib=16, gpus=1))
    pods = [process(f"p{i}", service=f"s{i}", role="learner", gpus=0.25) for i in range(4)]
    metered, _ = charge(Metered(), sample(1e-9, *pods), rates)
    _, charges = charge(metered, sample(3600.0, *pods), rates)
    assert total(charges, "gpu") / 3600.0 == pytest.approx(1.0)
    assert sum(c.cost for c in charges if c.resource == "gpu") == pytest.approx(rates.gpu_h)


@given(st.integers(0, 2**32))
def test_workload_idle_and_overhead_are_the_whole(seed: int) -> None:
    """The machine's price is taken apart by what each core and GiB did; what nobody used is counted by itself here."""
    draw = random.Random(seed)
    cores = dict.fromkeys(("server", "a", "b", "up"), 0.0)
    held = {key: draw.uniform(0.0, 1.5) for key in cores}
    samples, used_s, used_gib_s, disk_gib_s, at = [], 0.0, 0.0, 0.0, 0.0
    for look in range(draw.randint(2, 12)):
        step = draw.uniform(0.1, 20.0)
        for key in cores:
            grown = 0.0 if look == 0 else draw.uniform(0.0, step / 4)
            cores[key] += grown
            used_s += grown
            used_gib_s += held[key] * step
        at += step
        disk_gib_s += 3.0 * step if look else 0.0
        processes = [
            process("up", "", role="supervisor", cpu_s=cores["up"], memory_gib=held["up"]),
            process("s", cpu_s=cores["server"], memory_gib=held["server"]),
            *(process(n, service=n, role="learner", cpu_s=cores[n], memory_gib=held[n]) for n in ("a", "b")),
        ]
        counts = {n: Counts(predictions=look * draw.randint(0, 5), learned=look) for n in ("a", "b")}
        samples.append(sample(at, *processes, storage_gib={"a": 1.0, "b": 2.0}, counts=counts))
    charges = charged(samples)
    bill = bill_of(charges)
    whole = at / 3600.0 * RATES.machine_h + disk_gib_s / 3600.0 * RATES.storage_gib_h
    idle = (2 * at - used_s) / 3600.0 * RATES.core_h + (8 * at - used_gib_s) / 3600.0 * RATES.gib_h
    assert bill.total == pytest.approx(whole, rel=1e-6)
    assert bill.idle == pytest.approx(idle, rel=1e-6)
    assert bill.workload + bill.idle + bill.overhead == pytest.approx(bill.total, rel=1e-6)


def test_the_machine_is_priced_as_the_one_most_like_it() -> None:
    found = nearest(builtin(), Capacity(cores=2, memory_gib=8))
    assert found is not None
    assert (found.vcpu, found.memory_mib, found.accelerator) == (2, 8192, None)
    assert RATES.machine_h == pytest.approx(found.price)
    assert found.type in RATES.source
    assert "2026" in RATES.source
    odd = rates_of(builtin(), Capacity(cores=3, memory_gib=9))
    assert odd.machine_h == pytest.approx(3 * odd.core_h + 9 * odd.gib_h)
    assert rates_of(builtin(), HERE, per_hour=7.0).machine_h == pytest.approx(7.0)
    with pytest.raises(UnknownMachine):
        rates_of(builtin(), HERE, machine="m5.lrage")


def test_a_month_that_goes_on_as_it_does_is_forecast_and_a_guess_is_not() -> None:
    month = period_of("month", START)
    assert (month.key, month.left_s) == ("2026-07", 12 * 3600.0)
    assert period_of("day", START).left_s == 12 * 3600.0
    assert forecast(1.0, month, Pace(cost=1.0, seconds=10.0)) is None
    assert forecast(1.0, month, Pace(cost=1.0, seconds=3600.0)) == pytest.approx(13.0)


def test_a_pace_forgets() -> None:
    pace = Pace()
    for _ in range(1000):
        pace = pace.after(2.0, 1.0, FAST_S)
    for _ in range(int(3 * FAST_S)):
        pace = pace.after(0.0, 1.0, FAST_S)
    assert 0.0 < pace.per_s < 0.15


def test_rates_survive_being_written() -> None:
    assert msgspec.json.decode(msgspec.json.encode(RATES), type=Rates) == RATES
