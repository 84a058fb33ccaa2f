"""What `penstock plan` chooses: never what a limit forbids, and never dearer than what holds."""

from __future__ import annotations

from itertools import islice

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.cli.benchmarks import control_plan
from penstock.cli.planning.measured import Measured
from penstock.cli.planning.report import report
from penstock.control.plan import choose, workload
from penstock.control.plan.estimate import estimate
from penstock.control.plan.flips import cheapest, costs, curves, flips, moved
from penstock.control.plan.limits import broken, forbidden
from penstock.control.plan.options import OPTIONS, Assumptions, Candidate, Market
from penstock.control.plan.rehearse import rehearse
from penstock.control.plan.result import Result
from penstock.control.plan.trial import trial
from penstock.control.plan.workload import DAY_S, Workload
from penstock.control.prices.catalogue import builtin

MARKET = Market(builtin(), Assumptions())
BASE = Workload(traffic=workload.daily(3.0, step_s=3600.0), service_s=0.1, service_shape=2.0, learn_s=1e-4, p99_s=1.0)
FROZEN = msgspec.structs.replace(BASE, learns=False, learn_s=0.0)


def judge(candidate: Candidate, each: Workload, seed: int, times: int) -> Result:
    return trial(candidate, each, MARKET, seed=seed, requests=4_000 * times)


workloads = st.builds(
    Workload,
    traffic=st.one_of(
        st.builds(workload.steady, st.floats(0.01, 100.0)),
        st.builds(lambda rps: workload.daily(rps, step_s=3600.0), st.floats(0.01, 100.0)),
        st.builds(workload.bursts, st.floats(0.01, 30.0)),
    ),
    service_s=st.floats(0.002, 0.3),
    service_shape=st.sampled_from([1.0, 4.0]),
    server_mib=st.floats(64.0, 12_000.0),
    image_mib=st.floats(100.0, 15_000.0),
    learns=st.booleans(),
    learn_s=st.floats(0.0, 2e-3),
    device=st.sampled_from(["none", "learning", "serving"]),
    p99_s=st.floats(0.05, 10.0),
    fresh_s=st.one_of(st.none(), st.floats(0.05, 100.0)),
    survives_machine=st.booleans(),
)


@given(each=workloads, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_what_is_chosen_breaks_no_limit(each: Workload, seed: int) -> None:
    found = choose.choose(each, MARKET, judge, seed=seed)
    if found is None:
        return
    assert found.candidate is not None
    assert found.result is not None
    assert forbidden(found.option, each, MARKET) is None
    assert broken(each, found.result) is None
    functions = found.option in ("serverless", "hybrid")
    assert not (functions and (each.device == "serving" or each.image_mib > 10_240 or each.server_mib > 10_240))
    assert not (found.option == "serverless" and each.learns)
    assert not (found.option == "one machine" and each.survives_machine)
    machines = [each for each in (found.candidate.machine, found.candidate.more) if each is not None]
    assert each.device == "none" or any(machine.gpus for machine in machines)
    # The learner is never on a node that may be taken.
    assert found.candidate.machine is not None or not each.learns


@given(each=workloads, seed=st.integers(0, 2**32 - 1))
@settings(max_examples=6, deadline=None)
def test_the_same_seed_chooses_the_same_to_the_byte(each: Workload, seed: int) -> None:
    first, again = (msgspec.json.encode(choose.choose(each, MARKET, judge, seed=seed)) for _ in range(2))
    assert first == again


@given(each=workloads, factor=st.floats(1.0, 3.0))
@settings(max_examples=20, deadline=None)
def test_more_traffic_never_costs_less(each: Workload, factor: float) -> None:
    # Of machines that do not change, and of functions; those that are scaled come in four targets, between which the
    # cheapest that holds may fall to a better one.
    for option, ladder in choose.ladders(each, MARKET, late_max=0.01):
        now = next((c for c in islice(ladder, 1) if not c.scales), None)
        more = each.scaled(traffic=factor)
        if now is None or forbidden(option, more, MARKET) is not None:
            continue
        then = next((rungs for o, rungs in choose.ladders(more, MARKET, late_max=0.01) if o == option), iter(()))
        dearer = next(islice(then, 1), None)
        if dearer is not None and not now.is_spot:
            assert estimate(dearer, more, MARKET).usd_month >= estimate(now, each, MARKET).usd_month * (1 - 1e-9)


@pytest.mark.parametrize(
    ("change", "option", "limit"),
    [
        ({}, "serverless", "state"),
        ({"device": "serving"}, "hybrid", "gpu"),
        ({"device": "learning"}, "kubernetes", "gpu"),
        ({"service_s": 1000.0, "p99_s": 1e5}, "hybrid", "15 minutes"),
        ({"image_mib": 10_241.0}, "hybrid", "image"),
        ({"server_mib": 10_241.0}, "hybrid", "memory"),
        ({"survives_machine": True}, "one machine", "machine failure"),
        ({"learn_s": 0.5}, "kubernetes", "learner"),
    ],
)
def test_hard_limits_are_named(change: dict[str, object], option: str, limit: str) -> None:
    found = forbidden(option, msgspec.structs.replace(BASE, **change), MARKET)  # type: ignore[arg-type]
    assert found is not None
    assert found[0] == limit
    assert found[1]


def test_a_ceiling_itself_is_within() -> None:
    each = msgspec.structs.replace(BASE, image_mib=10_240.0, server_mib=10_240.0, service_s=900.0, p99_s=1e5)
    assert forbidden("hybrid", each.scaled(traffic=1e-4), MARKET) is None


def test_prices_that_a_list_does_not_have_are_said_to_be_missing() -> None:
    google = Market(builtin(), Assumptions(), "gcp")
    amazon = Market(builtin(), Assumptions(), "aws")
    assert (forbidden("hybrid", BASE, google) or ("", ""))[0] == "price"
    assert (forbidden("kubernetes spot", BASE, amazon) or ("", ""))[0] == "price"
    assert forbidden("kubernetes spot", BASE, google) is None


def test_a_rare_call_is_a_function_and_a_learner_is_not() -> None:
    rare = FROZEN.scaled(traffic=0.01)
    frozen = choose.choose(rare, MARKET, judge, seed=1)
    learning = choose.choose(BASE.scaled(traffic=0.01), MARKET, judge, seed=1)
    assert frozen is not None
    assert learning is not None
    assert (frozen.option, learning.option) == ("serverless", "one machine")


def test_not_scaling_can_be_the_answer_and_so_can_scaling() -> None:
    def kubernetes(rps: float) -> Candidate:
        each = msgspec.structs.replace(BASE, traffic=workload.daily(rps, step_s=900.0), service_s=0.2, p99_s=2.0)
        verdict = next(v for v in choose.weigh(each, MARKET, judge, seed=1) if v.option == "kubernetes")
        assert verdict.candidate is not None
        return verdict.candidate

    assert not kubernetes(2.0).scales
    assert kubernetes(400.0).scales


def test_every_option_has_a_verdict_and_those_that_fail_a_reason() -> None:
    found = choose.weigh(BASE, MARKET, judge, seed=1)
    assert [each.option for each in found] == list(OPTIONS)
    for each in found:
        assert each.holds == (each.reason == "")
        assert not each.holds or each.candidate is not None


@pytest.mark.parametrize("number", [0, 40, 1000, 2500, 3700, 4071])
def test_the_choice_is_within_a_tenth_of_the_best_of_an_exhaustive_simulation(number: int) -> None:
    found = control_plan.compare(control_plan.grid()[number], MARKET, seed=number + 1)
    assert not found.violates
    assert found.usd <= 1.1 * found.best_usd


def test_the_grid_is_as_large_as_it_is_said_to_be() -> None:
    assert len(control_plan.grid()) >= 5000
    assert len({msgspec.json.encode(each) for each in control_plan.grid()}) == len(control_plan.grid())


@pytest.mark.parametrize(("nodes", "size"), [(1, (1.0, 0.1)), (2, (3.0, 1.0))])
def test_simulated_functions_break_even_where_the_closed_form_says(nodes: int, size: tuple[float, float]) -> None:
    assert abs(control_plan.break_even(MARKET, *size, nodes).off) <= 0.05


def test_the_choice_flips_where_costs_cross() -> None:
    now = cheapest(costs(FROZEN, MARKET))
    assert now is not None
    found = [each for each in flips(FROZEN, MARKET, now, curves(FROZEN, MARKET)) if each.moved == "traffic"]
    assert found
    for flip in found:
        step = 1.01 if flip.factor > 1.0 else 1.0 / 1.01
        beyond = costs(*moved(FROZEN, MARKET, "traffic", flip.factor * step))
        assert flip.becomes is None or beyond[flip.becomes] < beyond.get(now, np.inf)
        before = costs(*moved(FROZEN, MARKET, "traffic", flip.factor / step))
        assert before.get(now, np.inf) <= 1.05 * min(before.values())


def test_a_whole_cluster_agrees_with_the_quick_simulation() -> None:
    each = msgspec.structs.replace(BASE, traffic=workload.steady(4.0), service_s=0.5, p99_s=5.0, survives_machine=True)
    verdict = next(v for v in choose.weigh(each, MARKET, judge, seed=1) if v.option == "kubernetes")
    assert verdict.candidate is not None
    quick = trial(verdict.candidate, each, MARKET, seed=1, requests=60_000)
    rng = np.random.default_rng(1)
    times = np.cumsum(rng.exponential(0.25, 20_000))
    whole = rehearse(verdict.candidate, each, MARKET, seed=1, arrivals=times)
    assert whole.p99_s == pytest.approx(quick.p99_s, rel=0.15)
    assert whole.usd_month == pytest.approx(quick.usd_month, rel=0.01)
    assert whole.digest == rehearse(verdict.candidate, each, MARKET, seed=1, arrivals=times).digest


def test_of_a_long_trace_the_busiest_weeks_are_rehearsed() -> None:
    each = msgspec.structs.replace(BASE, traffic=workload.steady(0.001), service_s=0.5, p99_s=5.0)
    verdict = next(v for v in choose.weigh(each, MARKET, judge, seed=1) if v.option == "one machine")
    assert verdict.candidate is not None
    seldom, often = np.arange(0.0, 90.0, 1.0) * DAY_S, (60.25 + np.arange(0.0, 10.0, 0.5)) * DAY_S
    found = rehearse(verdict.candidate, each, MARKET, seed=1, arrivals=np.sort(np.concatenate([seldom, often])))
    assert found.hours == 14 * 24
    assert found.requests == 14 + 20
    assert found.usd_month is None
    assert found.holds is not None


def test_what_fails_in_the_rehearsal_is_made_larger_until_it_holds() -> None:
    # As many requests as the plan is made for, but in clumps of which the quick simulation knows nothing.
    each = msgspec.structs.replace(BASE, traffic=workload.steady(2.0), service_s=0.5, p99_s=3.0, survives_machine=True)
    measured = Measured(request_s=0.5, learn_s=1e-4, server_mib=256.0, learner_mib=512.0, start_s=1.0)
    times = np.sort(np.repeat(np.arange(0.0, 3600.0, 10.0), 20)) + np.tile(np.arange(20) * 1e-3, 360)
    calm = report(each, MARKET, measured, "orders", times=None, seed=1)
    clumped = report(each, MARKET, measured, "orders", times=times, seed=1)
    assert calm.chosen is not None
    assert clumped.chosen is not None
    before, after = (next(line for line in plan.lines if line.chosen) for plan in (calm, clumped))
    assert clumped.rehearsal is not None
    assert clumped.rehearsal.holds
    assert (after.usd_month or 0.0) > (before.usd_month or 0.0)
