"""The formulas behind `penstock plan`, beside simulations and what is known of queues."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.control.plan import queueing, workload
from penstock.control.plan.estimate import follow, freshness
from penstock.control.plan.flips import break_even_rps
from penstock.control.plan.options import (
    Assumptions,
    Candidate,
    Market,
    allocatable_m,
    allocatable_mib,
    fixed_usd,
    missing_share,
    request_usd,
    spare_nodes,
)
from penstock.control.plan.trial import trial
from penstock.control.plan.workload import MONTH_S, Workload
from penstock.control.prices.catalogue import builtin

MARKET = Market(builtin(), Assumptions())


def test_erlangs_formulas_give_the_values_of_their_tables() -> None:
    # Two servers with one Erlang: B = (1/2)/(1 + 1 + 1/2) = 1/5; C = B/(1 - ρ(1 - B)) = 1/3.
    assert queueing.erlang_b(2, 1.0) == pytest.approx(0.2)
    assert queueing.erlang_c(2, 1.0) == pytest.approx(1.0 / 3.0)
    assert queueing.erlang_c(2, 2.5) == 1.0


@pytest.mark.parametrize(("rps", "servers", "within_s"), [(3.0, 4, 4.0), (6.0, 8, 4.5), (0.6, 1, 7.0)])
def test_the_late_share_is_that_of_a_simulated_queue(rps: float, servers: int, within_s: float) -> None:
    candidate = Candidate(option="one machine", cloud="aws", workers=servers)
    each = Workload(traffic=workload.steady(rps), service_s=1.0, learns=False, p99_s=within_s)
    simulated = trial(candidate, each, MARKET, seed=1, requests=400_000).late_share
    said = queueing.mixed_late(each.traffic, servers, 1.0, 1.0, within_s)
    assert said == pytest.approx(simulated, rel=0.12)


@given(
    rps=st.floats(0.01, 500.0),
    service_s=st.floats(0.001, 0.2),
    swing=st.floats(0.0, 0.9),
    relaxed=st.floats(6.0, 50.0),
)
@settings(max_examples=60, deadline=None)
def test_so_many_servers_are_enough_and_one_fewer_is_not(
    rps: float, service_s: float, swing: float, relaxed: float
) -> None:
    traffic = workload.daily(rps, swing=swing, step_s=3600.0)
    needed = queueing.servers_needed(traffic, service_s, 2.0, relaxed * service_s)
    assert needed is not None
    assert queueing.mixed_late(traffic, needed, service_s, 2.0, relaxed * service_s) <= queueing.LATE_MAX
    if needed > max(1, int(traffic.mean_rps * service_s)):
        assert queueing.mixed_late(traffic, needed - 1, service_s, 2.0, relaxed * service_s) > queueing.LATE_MAX


def test_no_number_of_servers_makes_the_work_itself_shorter() -> None:
    assert queueing.servers_needed(workload.steady(1.0), 1.0, 1.0, 2.0) is None


def test_more_than_can_be_served_for_a_while_waits_as_a_fluid_does() -> None:
    # 20 a second come for 10 s where 10 are served: 100 stand in line at the end of it, ten seconds of work.
    rates, counts = np.array([20.0, 2.0, 2.0, 2.0]), np.full(4, 10, np.int64)
    begins, ends, late = queueing.backlog(rates, counts, 10.0, 1.0, 6.0)
    assert (begins[0], ends[0], begins[1]) == (0.0, 10.0, 10.0)
    # Later than 6 s are those that wait more than 5 s: the second half of the first step.
    assert late[0] == pytest.approx(0.5)
    assert late[3] == 0.0


def test_servers_that_are_always_busy_are_not_enough() -> None:
    each = Workload(traffic=workload.steady(4.0), service_s=0.5, learns=False, p99_s=5.0)
    candidate = Candidate(option="one machine", cloud="aws", workers=2)
    assert trial(candidate, each, MARKET, seed=1).late_share > 0.1
    assert queueing.mixed_late(each.traffic, 2, 0.5, 1.0, 5.0) == 1.0


@pytest.mark.parametrize("busy", [0.9, 0.97, 0.985])
def test_a_short_simulation_of_busy_servers_is_not_one_of_servers_that_just_began(busy: float) -> None:
    # Of one server late answers are exp(-(1 - ρ) · within): nothing but the queue's own long memory is tested.
    within_s = 2.0 / (1.0 - busy)
    each = Workload(traffic=workload.steady(busy), service_s=1.0, learns=False, p99_s=within_s)
    candidate = Candidate(option="one machine", cloud="aws", workers=1)
    found = [trial(candidate, each, MARKET, seed=seed, requests=1000).late_share for seed in range(12)]
    assert float(np.mean(found)) == pytest.approx(np.exp(-2.0), rel=0.3)


@given(rps=st.floats(0.001, 30.0), service_s=st.floats(0.01, 2.0))
@settings(max_examples=15, deadline=None)
def test_cold_starts_are_about_those_of_simulated_functions(rps: float, service_s: float) -> None:
    each = Workload(traffic=workload.steady(rps), service_s=service_s, learns=False, p99_s=60.0, start_s=0.001)
    candidate = Candidate(option="serverless", cloud="aws", function_mib=1769)
    simulated = trial(candidate, each, MARKET, seed=3, requests=60_000).cold_starts_month / each.requests_a_month
    said = queueing.cold_share(each.traffic, service_s, MARKET.assumptions.keep_warm_s)
    assert said == pytest.approx(simulated, abs=0.004, rel=0.35)


@given(kept=st.integers(0, 20), rps=st.floats(0.1, 20.0))
@settings(max_examples=30, deadline=None)
def test_functions_that_are_kept_warm_start_cold_no_more_often(kept: int, rps: float) -> None:
    traffic = workload.steady(rps)
    shares = [queueing.cold_share(traffic, 0.5, 600.0, always) for always in (kept, kept + 1)]
    assert shares[1] <= shares[0] + 1e-12


def test_what_is_read_again_and_again_is_bounded_by_how_often_it_may() -> None:
    # One server at 1 a second, weights every 9 s: a read with every tenth request, one after nine seconds on average.
    assert queueing.reads_share(1.0, 1e-6, 9.0) == pytest.approx(0.1, rel=1e-3)


def test_break_even_is_where_the_functions_cost_what_the_machines_do() -> None:
    machine = MARKET.catalogue.instance("m7i.xlarge")
    assert machine is not None
    fixed = machine.price * 730.0
    each_usd = request_usd(Candidate(option="serverless", cloud="aws", function_mib=1024), MARKET, 0.1)
    assert each_usd * 1e6 == pytest.approx(0.20 + 1.66667, rel=1e-4)
    assert break_even_rps(fixed, each_usd) * MONTH_S * each_usd == pytest.approx(fixed)


def test_nodes_have_less_for_pods_than_they_have() -> None:
    # Of four cores 60 + 10 + 5 + 5 thousandths are kept; of 16 GiB 1024 + 819.2 + 819.2 MiB, and 100 for eviction.
    assert allocatable_m(4) == 3920
    assert allocatable_mib(16_384) == int(16_384 - 1024 - 819.2 - 819.2 - 100)


def test_enough_spot_nodes_are_spare_that_too_few_are_there_only_rarely() -> None:
    own = MARKET.assumptions
    for needed in (1, 3, 10, 60):
        spare = spare_nodes(needed, own)
        assert missing_share(needed + spare, spare, own) <= 0.001
        assert spare == 1 or missing_share(needed + spare - 1, spare - 1, own) > 0.001
    assert spare_nodes(60, own) > spare_nodes(1, own) == 1


def test_workers_that_follow_the_load_come_late_and_go_later() -> None:
    own = Assumptions(scaling_lag_s=60.0, scaling_hold_s=120.0, node_hold_s=60.0)
    each = Workload(
        traffic=workload.Traffic(rates=(1.0, 1.0, 100.0, 1.0, 1.0, 1.0, 1.0, 1.0), step_s=60.0),
        service_s=1.0,
        learns=False,
        p99_s=60.0,
    )
    ready, paid = follow(each, own, 1.0, 1)
    busy = ready > ready[0]
    assert busy.tolist() == [False, False, False, True, True, True, False, False]
    assert (paid > paid[0]).tolist() == [False, False, True, True, True, True, True, False]


def test_a_learner_that_falls_behind_by_day_is_seen_in_the_freshness() -> None:
    own = MARKET.assumptions
    machine = Candidate(option="one machine", cloud="aws", workers=1)
    each = Workload(traffic=workload.daily(100.0), service_s=0.001, learn_s=0.004, p99_s=1.0)
    late = freshness(machine, each, MARKET)
    assert late is not None
    assert late > own.publish_s
    assert freshness(machine, each.scaled(traffic=0.5), MARKET) == pytest.approx(own.publish_s, abs=0.05)
    # At noon 180 a second come and 250 are learned; from 139 a second on (mean) the day's peak is more than that.
    behind = freshness(machine, each.scaled(traffic=1.6), MARKET)
    assert behind is not None
    assert behind > 60.0
    assert freshness(machine, each.scaled(traffic=3.0), MARKET) == float("inf")


@given(factor=st.floats(1.0, 20.0))
@settings(max_examples=20, deadline=None)
def test_prices_that_are_multiplied_multiply_what_they_are_the_prices_of(factor: float) -> None:
    machine = MARKET.catalogue.instance("e2-standard-2")
    candidate = Candidate(option="one machine", cloud="gcp", workers=1, machine=machine)
    moved = MARKET.priced(machines=factor)
    dearer = Candidate(option="one machine", cloud="gcp", workers=1, machine=moved.catalogue.instance("e2-standard-2"))
    assert fixed_usd(dearer, moved) == pytest.approx(factor * fixed_usd(candidate, MARKET))
    function = Candidate(option="serverless", cloud="aws", function_mib=1769)
    assert request_usd(function, moved, 0.1) == request_usd(function, MARKET, 0.1)


def test_the_steps_of_a_trace_hold_its_requests() -> None:
    times = np.sort(np.random.default_rng(0).uniform(0.0, 1234.0, 900))
    found = workload.of_times(times - times[0])
    assert found.mean_rps == pytest.approx(900 / 1234.0, rel=0.05)
    assert found.step_s % 10.0 == 0.0
    assert found.step_s * found.mean_rps >= 20.0
