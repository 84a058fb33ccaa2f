"""Our own autoscaler: what it tries is what the simulated service does, and what it decides is the least that was
enough."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.control.foresight import decide
from penstock.control.foresight.decide import Memory, Seen, Settings, step
from penstock.control.foresight.trial import attempt
from penstock.control.nodes.autoscaler import NodeGroup
from penstock.control.nodes.shapes import NodeShape, PodShape
from penstock.control.simulate import traffic
from penstock.control.simulate.queue import Ended, Queue
from penstock.control.simulate.run import follow
from penstock.control.simulate.scenario import Delay, Pool, Scenario, Serving

NOTHING = np.empty(0)


def settings(**given: Any) -> Settings:
    return Settings(**{"concurrency": 2, "start_s": 30.0, "largest": 40, **given})


def seen(replicas: int, **given: Any) -> Seen:
    return Seen(**{"replicas": replicas, "working": 0, "waiting": 0, "arrivals": NOTHING, "services": NOTHING, **given})


def steady(rps: float, duration_s: float, mean_s: float, seed: int = 1) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    arrivals = traffic.steady(rps, duration_s, rng)
    return arrivals, traffic.services(len(arrivals), mean_s, rng)


def scenario(replicas: int, duration_s: float, scaling: Settings | None = None, **given: Any) -> Scenario:
    node = NodeShape(cpu_m=100_000, memory_b=2**40)
    serving = Serving(
        pod=PodShape(cpu_m=1000, memory_b=2**20, owner="server"), replicas=replicas, concurrency=2, **given
    )
    pool = Pool(group=NodeGroup(name="all", shape=node, smallest=1, largest=1, target=1), usd_h=1.0)
    return Scenario(duration_s=duration_s, serving=serving, pools=(pool,), scaling=scaling)


def late_last(arrivals: list[float], services: list[float], slots: int, patience_s: float) -> list[float]:
    """Whoever has waited too long goes behind the others, one request after the other."""
    free = [0.0] * slots
    waiting, late = list(range(len(arrivals))), []
    waits = [math.nan] * len(arrivals)
    while waiting or late:
        slot = min(range(slots), key=lambda i: free[i])
        now = free[slot]
        late += [i for i in waiting if now - arrivals[i] > patience_s]
        waiting = [i for i in waiting if now - arrivals[i] <= patience_s]
        request = waiting.pop(0) if waiting and (arrivals[waiting[0]] <= now or not late) else late.pop(0)
        start = max(now, arrivals[request])
        waits[request] = start - arrivals[request]
        free[slot] = start + services[request]
    return waits


@pytest.mark.parametrize("seed", range(20))
def test_who_has_waited_too_long_goes_behind_those_who_have_not(seed: int) -> None:
    arrivals, services = steady(4.0, 60.0, 0.9, seed)
    queue = Queue(arrivals, services, 1, patience_s=1.0)
    for slot in range(3):
        queue.open(slot, 0.0)
    for until in (7.3, 20.0, 1e9):
        queue.advance(until)
    expected = late_last(list(arrivals), list(services), 3, 1.0)
    assert queue.waits == pytest.approx(expected)
    assert queue.waiting(1e9) == 0
    assert not np.isnan(queue.waits).any()


def test_those_who_wait_are_counted_whether_late_or_not() -> None:
    queue = Queue(np.array([0.0, 0.1, 0.2, 5.0]), np.full(4, 3.0), 1, patience_s=1.0)
    queue.open(0, 0.0)
    queue.advance(4.0)
    assert queue.waiting(4.0) == 1
    assert queue.waits[:2] == pytest.approx([0.0, 2.9], nan_ok=True)


@pytest.mark.parametrize("count", [3, 5, 8])
def test_a_trial_of_a_fixed_count_is_what_the_simulated_service_does(count: int) -> None:
    arrivals, services = steady(3.0, 1800.0, 3.0)
    tried = attempt(arrivals, services, 1800.0, count, False, settings())
    _, waits = follow(scenario(count, 1800.0, patience_s=1.0), arrivals, services, seed=1)
    counted = waits[arrivals <= 1799.0]
    assert tried.late == float((~(counted <= 1.0)).mean())
    assert tried.replica_s == pytest.approx(1800.0 * count)


@pytest.mark.parametrize("start_s", [1.0, 120.0])
def test_a_trial_of_a_count_that_follows_is_near_to_what_the_simulated_service_does(start_s: float) -> None:
    arrivals, services = steady(3.0, 3600.0, 3.0)
    always = settings(start_s=start_s, review_s=1e9)
    tried = attempt(arrivals, services, 3600.0, 4, True, always)
    run = scenario(4, 3600.0, always, patience_s=1.0, model_load=Delay(median_s=start_s))
    outcome, waits = follow(run, arrivals, services, seed=1)
    assert tried.late == pytest.approx(float((~(waits <= 1.0)).mean()), abs=0.01)
    changes = [(0.0, 4), *((moment.t, moment.replicas) for moment in outcome.moments), (3600.0, 0)]
    asked_s = sum(count * (until - t) for (t, count), (until, _) in itertools.pairwise(changes))
    assert tried.replica_s == pytest.approx(asked_s, rel=0.05)


@pytest.mark.parametrize("seed", range(5))
def test_more_replicas_are_never_late_more_often(seed: int) -> None:
    arrivals, services = steady(2.0, 900.0, 4.0, seed)
    shares = [attempt(arrivals, services, 900.0, count, False, settings()).late for count in range(1, 12)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.5
    assert shares[-1] == 0.0


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
def test_the_least_that_is_enough_is_found_from_anywhere(one: int, other: int, near: int, least: int) -> None:
    bounds = settings(smallest=min(one, other), largest=max(one, other))
    found = decide.least(lambda count: count >= least, near, bounds)
    assert found == min(max(least, bounds.smallest), bounds.largest)


def test_nothing_goes_before_enough_was_seen_and_more_comes_at_once() -> None:
    memory = Memory()
    for look in range(100):
        decision = step(seen(6, waiting=20 if look == 50 else 0), memory, 5.0 * look, settings())
        memory = decision.memory
        # Twenty that wait are ten replicas' work, for as long as a high count holds.
        assert decision.replicas == (10 if 50 <= look < 62 else 6)


def test_the_floor_is_the_least_that_would_have_kept_the_promise() -> None:
    arrivals, services = steady(3.0, 1800.0, 3.0)
    bound = settings(late_max=0.01, start_s=600.0)
    memory = Memory(arrivals=arrivals, services=services, began_t=0.0)
    decision = step(seen(20), memory, 1800.0, bound)
    since = arrivals - arrivals[0]
    duration_s = 1800.0 - float(arrivals[0])
    assert not decision.follows
    assert attempt(since, services, duration_s, decision.floor, False, bound).late <= 0.01
    spells = [since, arrivals[arrivals >= 1350.0] - arrivals[arrivals >= 1350.0][0]]
    fewer = [
        attempt(spell, services[-len(spell) :], float(spell[-1]) + 1.0, decision.floor - 1, False, bound).late
        for spell in spells
    ]
    assert max(fewer) > 0.01


def test_bursts_that_are_short_are_followed_where_replicas_start_at_once_and_not_where_they_start_late() -> None:
    rng = np.random.default_rng(3)
    busy = np.concatenate([steady(8.0, 120.0, 1.0, seed)[0] + 600.0 * seed for seed in range(3)])
    calm = traffic.steady(0.3, 1800.0, rng)
    arrivals = np.sort(np.concatenate([busy, calm]))
    memory = Memory(arrivals=arrivals, services=np.full(len(arrivals), 3.0), began_t=0.0)
    quick = step(seen(5), memory, 1800.0, settings(start_s=0.5, late_max=0.1))
    slow = step(seen(5), memory, 1800.0, settings(start_s=400.0, late_max=0.1))
    assert quick.follows
    assert quick.floor < slow.floor
    assert not slow.follows


def test_when_nobody_comes_any_more_the_floor_falls() -> None:
    arrivals, services = steady(3.0, 1800.0, 3.0)
    decision = step(seen(10), Memory(arrivals=arrivals, services=services, began_t=0.0), 1800.0, settings())
    assert decision.floor > 1
    later = step(seen(10), decision.memory, 7200.0, settings())
    assert (later.floor, later.replicas) == (1, 1)


def reviewed(late: list[float], promised: float = 0.02, **given: Any) -> list[float]:
    """What may be late in the trial after each review, where a share of a hundred requests was late before each."""
    bound = settings(late_max=promised, review_s=60.0, **given)
    memory, found = Memory(began_t=0.0, reviewed_t=0.0, may_be_late=promised), []
    for number, share in enumerate(late, start=1):
        now = 60.0 * number
        come = np.linspace(now - 60.0, now, 101)[1:]
        look = seen(5, arrivals=come, services=np.full(100, 0.1), judged=100, late=round(100 * share))
        memory = step(look, memory, now, bound).memory
        assert memory.may_be_late is not None
        found.append(memory.may_be_late)
    return found


def test_the_trial_may_be_late_more_often_while_fewer_are_late_than_promised_and_less_often_after() -> None:
    shares = reviewed([0.0, 0.0, 0.02, 0.1, 0.1, 0.1])
    assert shares[:2] == pytest.approx([0.026, 0.032])
    assert shares[2] == pytest.approx(shares[1])
    assert shares[3] == pytest.approx(shares[2] - 0.3 * 0.08)
    assert shares[-1] == 0.02 / 4.0
    assert reviewed([0.0] * 30)[-1] == 0.08


def test_a_minute_counts_by_its_requests() -> None:
    memory = Memory(began_t=0.0, reviewed_t=540.0, may_be_late=0.02, arrivals=np.linspace(0.5, 540.0, 900))
    found = step(seen(5, judged=10, late=10), memory, 600.0, settings(late_max=0.02)).memory.may_be_late
    # Ten that were all late, of some ninety that usually come in a minute.
    assert found == pytest.approx(0.005)
    one = step(seen(5, judged=10, late=1), memory, 600.0, settings(late_max=0.02)).memory.may_be_late
    assert one == pytest.approx(0.02 - 0.3 * (1.0 - 0.2) / 90.0)


def test_in_the_long_run_as_many_are_late_as_were_promised_though_what_comes_changes() -> None:
    rng = np.random.default_rng(2)
    calm, busy = (traffic.steady(rps, 7200.0, rng) for rps in (6.0, 2.0))
    arrivals = np.concatenate([calm, 7200.0 + busy, 14_400.0 + traffic.steady(6.0, 7200.0, rng)])
    services = traffic.services(len(arrivals), 3.0, rng)
    run = scenario(10, 21_600.0, settings(late_max=0.04, start_s=20.0), patience_s=1.0, model_load=Delay(median_s=20.0))
    _, waits = follow(run, arrivals, services, seed=1)
    assert float((~(waits[arrivals < 21_599.0] <= 1.0)).mean()) == pytest.approx(0.04, abs=0.01)


@pytest.mark.parametrize("steps", [[5.0, 60.0], [0.5, 1.0, 2.0, 7.0, 30.0, 60.0]])
def test_who_is_late_is_known_once_of_everybody(steps: list[float]) -> None:
    arrivals, services = steady(4.0, 60.0, 0.9)
    queue = Queue(arrivals, services, 1, patience_s=1.0)
    ended = Ended(queue)
    for slot in range(3):
        queue.open(slot, 0.0)
    told = []
    for now in steps:
        queue.advance(now)
        told.append(ended.judged(now, 1.0))
    queue.advance(1e9)
    counted = queue.waits[arrivals <= 59.0]
    assert sum(judged for judged, _ in told) == len(counted)
    assert sum(late for _, late in told) == int((counted > 1.0).sum())


@given(
    st.lists(st.floats(0.0, 50.0), max_size=60),
    st.integers(0, 500),
    st.integers(0, 500),
    st.integers(1, 8),
    st.integers(8, 30),
)
def test_the_count_stays_within_its_bounds_and_the_history_within_its_own(
    gaps: list[float], working: int, waiting: int, smallest: int, largest: int
) -> None:
    bound = settings(smallest=smallest, largest=largest, history_max=40, review_s=10.0)
    memory, now = Memory(), 0.0
    for gap in gaps:
        now += gap
        arrivals = np.linspace(now - gap, now, 5)[1:]
        look = seen(3, working=working, waiting=waiting, arrivals=arrivals, services=np.full(4, 2.0))
        decision = step(look, memory, now, bound)
        memory = decision.memory
        assert smallest <= decision.replicas <= largest
        assert len(memory.arrivals) <= 40
        assert len(memory.services) <= 40
        assert decision.why
