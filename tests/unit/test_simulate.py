"""The simulated cluster: against formulas, against itself told otherwise, and against a plainer queue."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from penstock.control.autoscale.horizontal import Autoscaler
from penstock.control.nodes.autoscaler import NodeGroup
from penstock.control.nodes.shapes import DEVICE_TAINT, NodeShape, PodShape, Taint, Toleration
from penstock.control.simulate import traffic
from penstock.control.simulate.outcome import Outcome
from penstock.control.simulate.queue import Queue
from penstock.control.simulate.run import simulate
from penstock.control.simulate.scenario import Delay, Learning, Pool, Scaling, Scenario, Serving
from penstock.errors import BadFile

NODE = NodeShape(cpu_m=4000, memory_b=16 * 2**30)
POD = PodShape(cpu_m=1000, memory_b=2**30, owner="server")
LABEL = {"cloud.google.com/gke-accelerator": "nvidia-l4"}


def fixed(replicas: int, duration_s: float, **more: Any) -> Scenario:
    """So many replicas, with room for all of them, and nothing that changes."""
    serving = Serving(pod=PodShape(cpu_m=10, memory_b=1, owner="server"), replicas=replicas, **more)
    pool = Pool(group=NodeGroup(name="cpu", shape=NODE, smallest=1, target=1), usd_h=0.2)
    return Scenario(duration_s=duration_s, serving=serving, pools=(pool,))


def elastic(duration_s: float = 7200.0, **more: Any) -> Scenario:
    """Both autoscalers at work, and a learner."""
    given: dict[str, Any] = {
        "serving": Serving(
            pod=POD,
            replicas=2,
            concurrency=4,
            model_load=Delay(median_s=20.0, spread=0.3),
            image_pull=Delay(median_s=60.0, spread=0.3),
        ),
        "pools": (Pool(group=NodeGroup(name="cpu", shape=NODE, smallest=1, largest=20, target=1), usd_h=0.2),),
        "scaling": Scaling(autoscaler=Autoscaler(smallest=2, largest=40)),
        "learning": Learning(pod=PodShape(cpu_m=500, memory_b=2**30, owner="learner"), rate_eps=30.0),
        "overhead_usd_h": 0.1,
        **more,
    }
    return Scenario(duration_s=duration_s, **given)


def load(rps: float, duration_s: float, mean_s: float, seed: int = 1) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    arrivals = traffic.steady(rps, duration_s, rng)
    return arrivals, traffic.services(len(arrivals), mean_s, rng)


def erlang_c_wait(servers: int, utilization: float, mean_s: float) -> float:
    """The mean wait of an M/M/c queue (Erlang, 1917)."""
    offered = servers * utilization
    terms = sum(offered**k / math.factorial(k) for k in range(servers))
    last = offered**servers / math.factorial(servers) / (1.0 - utilization)
    return last / (terms + last) * mean_s / (servers * (1.0 - utilization))


@pytest.mark.parametrize(("servers", "utilization"), [(1, 0.3), (2, 0.5), (4, 0.7), (4, 0.8)])
def test_the_mean_wait_is_that_of_erlang(servers: int, utilization: float) -> None:
    rng = np.random.default_rng(11)
    count = 1_000_000
    arrivals = np.cumsum(rng.exponential(1.0 / (servers * utilization), count))
    outcome = simulate(fixed(servers, float(arrivals[-1]) + 1e6), arrivals, rng.exponential(1.0, count), seed=1)
    assert outcome.wait is not None
    assert outcome.served == count
    assert outcome.wait.mean_s == pytest.approx(erlang_c_wait(servers, utilization, 1.0), rel=0.02)


def plain_waits(arrivals: list[float], services: list[float], spells: list[tuple[float, float]]) -> list[float]:
    """First come, first served, one request after the other, on slots that are open for a spell each."""
    free = [begins for begins, _ in spells]
    waits = []
    for arrival, service in zip(arrivals, services, strict=True):
        starts = [
            max(arrival, at) if max(arrival, at) < ends else math.inf
            for at, (_, ends) in zip(free, spells, strict=True)
        ]
        slot = min(range(len(spells)), key=lambda i: (starts[i], free[i]))
        if math.isinf(starts[slot]):
            waits.append(math.nan)
            break
        free[slot] = starts[slot] + service
        waits.append(starts[slot] - arrival)
    return waits + [math.nan] * (len(arrivals) - len(waits))


@pytest.mark.parametrize("seed", range(20))
def test_the_queue_is_first_come_first_served_while_slots_open_and_close(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = 400
    arrivals = np.sort(rng.uniform(0.0, 100.0, count))
    services = rng.gamma(2.0, 0.25, count)
    spells = [(0.0, math.inf)] + [tuple(sorted(rng.uniform(0.0, 110.0, 2))) for _ in range(4)]
    queue = Queue(arrivals, services, 1)
    changes = sorted((t, replica, kind) for replica, spell in enumerate(spells) for kind, t in enumerate(spell))
    for t, replica, kind in changes:
        queue.advance(t)
        if kind:
            queue.close(replica)
        else:
            queue.open(replica, t)
    queue.advance(1e9)
    assert queue.waits == pytest.approx(plain_waits(list(arrivals), list(services), spells), nan_ok=True)


def test_what_a_replica_was_working_on_begins_anew_elsewhere_before_anything_that_waits() -> None:
    queue = Queue(np.array([0.0, 0.0, 1.0]), np.array([10.0, 10.0, 1.0]), 1)
    queue.open(0, 0.0)
    queue.open(1, 0.0)
    queue.advance(5.0)
    assert (queue.at_work(5.0), queue.waiting(5.0)) == (2, 1)
    assert list(queue.worked(5.0)[:2]) == [5.0, 5.0]
    queue.remove(0, 5.0)
    assert (queue.at_work(5.0), queue.waiting(5.0), queue.retried) == (1, 2, 1)
    queue.advance(100.0)
    assert list(queue.waits) == [10.0, 0.0, 19.0]
    assert list(queue.worked(100.0)[:2]) == [5.0, 21.0]


def test_a_closed_replica_finishes_what_it_works_on() -> None:
    queue = Queue(np.array([0.0, 1.0]), np.array([10.0, 10.0]), 1)
    queue.open(0, 0.0)
    queue.advance(2.0)
    assert queue.close(0) == 10.0
    queue.advance(50.0)
    assert queue.waiting(50.0) == 1
    queue.remove(0, 50.0)
    assert (queue.retried, queue.waits[0]) == (0, 0.0)


def run(scenario: Scenario, rps: float = 6.0, mean_s: float = 1.5, seed: int = 3) -> Outcome:
    return simulate(scenario, *load(rps, scenario.duration_s, mean_s), seed=seed)


def test_the_same_seed_gives_the_same_bytes_and_another_one_others() -> None:
    first, second = run(elastic()), run(elastic())
    assert msgspec.json.encode(first) == msgspec.json.encode(second)
    assert first.digest != run(elastic(), seed=4).digest


def test_the_replicas_follow_the_load_and_the_nodes_follow_the_replicas() -> None:
    outcome = run(elastic())
    # 6 requests a second of 1.5 s are 9 at once; at 70 % of 4 a replica that is 3.2 replicas.
    assert outcome.wait is not None
    assert 3.0 < outcome.replica_hours / 2.0 < 4.5
    assert outcome.served == outcome.requests
    assert outcome.nodes_bought > 0
    quiet = run(elastic(), rps=0.1)
    assert (quiet.replicas_max, quiet.nodes_bought) == (2, 0)


@pytest.mark.parametrize("seed", range(4))
def test_workload_idle_and_overhead_are_the_whole_bill(seed: int) -> None:
    spot = Pool(
        group=NodeGroup(name="spot", shape=NODE, largest=9),
        usd_h=0.07,
        spot_reclaims_per_h=3.0,
        provision=Delay(median_s=60.0, spread=0.5),
    )
    scenario = elastic(pools=(*elastic().pools, spot))
    cost = run(scenario, rps=9.0, seed=seed).cost
    assert cost.workload_usd + cost.idle_usd + cost.overhead_usd == pytest.approx(cost.total_usd, rel=1e-9)
    assert min(cost.workload_usd, cost.idle_usd, cost.overhead_usd) > 0.0


def test_a_fixed_cluster_costs_its_nodes_by_the_second() -> None:
    cost = run(fixed(1, 1800.0)).cost
    assert (cost.total_usd, cost.node_hours) == (pytest.approx(0.1), pytest.approx(0.5))
    share = cost.workload_usd / cost.total_usd
    assert share == pytest.approx((0.01 * 0.031611 + 2**-30 * 0.004237) / (4 * 0.031611 + 16 * 0.004237))


def with_devices(labels: dict[str, str]) -> Scenario:
    shape = NodeShape(cpu_m=4000, memory_b=2**34, gpu=1, labels=labels, taints=(Taint(key=DEVICE_TAINT),))
    pod = PodShape(cpu_m=1000, memory_b=2**30, gpu=1, owner="server", tolerations=(Toleration(key=DEVICE_TAINT),))
    pool = Pool(
        group=NodeGroup(name="gpu", shape=shape, largest=10),
        usd_h=1.0,
        provision=Delay(median_s=120.0),
        device_plugin=Delay(median_s=90.0),
    )
    return Scenario(duration_s=3600.0, serving=Serving(pod=pod), pools=(pool,))


def test_without_its_label_a_node_makes_the_autoscaler_buy_more_and_with_it_not() -> None:
    labelled, bare = (run(with_devices(labels), rps=0.3) for labels in (LABEL, {}))
    assert (labelled.nodes_bought, labelled.nodes_max) == (1, 1)
    assert bare.nodes_bought == 2
    # The one too many goes when it has been unneeded for ten minutes.
    assert any("fewer" in moment.decided for moment in bare.moments)
    assert 0.2 < bare.cost.node_hours - labelled.cost.node_hours < 0.5
    assert labelled.served >= labelled.requests - 5


def test_spot_nodes_that_are_taken_lose_no_request() -> None:
    spot = Pool(
        group=NodeGroup(name="spot", shape=NODE, smallest=2, largest=9, target=3),
        usd_h=0.07,
        spot_reclaims_per_h=6.0,
        spot_notice_s=30.0,
    )
    serving = msgspec.structs.replace(elastic().serving, crashes_per_h=2.0, grace_s=1.0)
    outcome = run(elastic(pools=(spot,), serving=serving), mean_s=2.0)
    assert outcome.reclaimed > 5
    assert outcome.crashed > 5
    assert outcome.retried > 0
    assert outcome.served >= outcome.requests - 50
    assert outcome.freshness is not None
    assert outcome.freshness.down_s > 0.0


def test_what_is_scaled_down_finishes_its_work_within_its_grace() -> None:
    busy, quiet = load(12.0, 1800.0, 10.0), load(3.0, 5000.0, 10.0, seed=2)
    arrivals = np.concatenate([busy[0], 1800.0 + quiet[0]])
    services = np.concatenate([busy[1], quiet[1]])

    def retried(grace_s: float) -> tuple[int, int]:
        serving = msgspec.structs.replace(elastic().serving, grace_s=grace_s)
        outcome = simulate(elastic(serving=serving), arrivals, services, seed=3)
        assert any("fewer" in moment.decided for moment in outcome.moments)
        return outcome.retried, outcome.requests - outcome.served

    assert retried(1000.0) == (0, 0)
    cut_off, lost = retried(0.0)
    assert cut_off > 0
    assert lost == 0


def test_nodes_that_never_come_are_given_up() -> None:
    late = Pool(group=NodeGroup(name="cpu", shape=NODE, largest=9), usd_h=0.2, provision=Delay(median_s=1e6))
    outcome = run(elastic(pools=(late,), scaling=None))
    assert outcome.served == 0
    assert outcome.wait is None
    assert sum("did not come" in moment.decided for moment in outcome.moments) >= 3
    assert outcome.cost.overhead_usd == pytest.approx(outcome.cost.total_usd)


def test_the_learner_falls_behind_when_events_come_faster_than_it_learns() -> None:
    slow = msgspec.structs.replace(elastic().learning, rate_eps=5.0)
    outcome = run(elastic(learning=slow), rps=6.0)
    assert outcome.freshness is not None
    assert outcome.freshness.backlog_end == pytest.approx(outcome.requests - 5.0 * 7200.0, abs=200.0)
    fast = run(elastic()).freshness
    assert fast is not None
    assert (fast.backlog_max, fast.p99_s) == (0.0, 0.001)


def test_stretching_time_stretches_every_wait() -> None:
    arrivals, services = load(1.6, 4000.0, 2.0)
    once = simulate(fixed(4, 8000.0), arrivals, services, seed=1)
    twice = simulate(fixed(4, 16_000.0), arrivals * 2.0, services * 2.0, seed=1)
    assert once.wait is not None
    assert twice.wait is not None
    assert once.wait.mean_s > 0.1
    assert twice.wait.mean_s == pytest.approx(2.0 * once.wait.mean_s)
    assert twice.wait.max_s == pytest.approx(2.0 * once.wait.max_s)


def test_more_replicas_never_make_anybody_wait_longer() -> None:
    arrivals, services = load(1.6, 4000.0, 2.0)
    means = []
    for replicas in (4, 5, 6, 8):
        wait = simulate(fixed(replicas, 8000.0), arrivals, services, seed=1).wait
        assert wait is not None
        means.append(wait.mean_s)
    assert means == sorted(means, reverse=True)
    assert means[0] > means[-1]


def test_prices_change_the_bill_and_nothing_else() -> None:
    cheap = elastic(overhead_usd_h=0.0)
    dear = elastic(
        overhead_usd_h=0.0, pools=tuple(msgspec.structs.replace(p, usd_h=3.0 * p.usd_h) for p in cheap.pools)
    )
    first, second = run(cheap), run(dear)
    assert second.cost.total_usd == pytest.approx(3.0 * first.cost.total_usd)
    assert first.moments == second.moments
    assert first.wait == second.wait


def test_units_do_not_matter() -> None:
    def scaled(factor: int) -> Outcome:
        shape = NodeShape(cpu_m=4000 * factor, memory_b=NODE.memory_b)
        serving = msgspec.structs.replace(elastic().serving, pod=PodShape(cpu_m=1000 * factor, owner="server"))
        pool = Pool(group=NodeGroup(name="cpu", shape=shape, smallest=1, largest=20, target=1), usd_h=0.2)
        return run(elastic(serving=serving, pools=(pool,), learning=None))

    assert scaled(1).moments == scaled(3).moments


def test_slower_nodes_make_the_wait_longer() -> None:
    def with_provision(seconds: float) -> Outcome:
        pools = tuple(msgspec.structs.replace(p, provision=Delay(median_s=seconds)) for p in elastic().pools)
        return run(elastic(pools=pools), rps=12.0)

    fast, slow = with_provision(30.0).wait, with_provision(600.0).wait
    assert fast is not None
    assert slow is not None
    assert slow.mean_s > 2.0 * fast.mean_s


def test_a_scaler_by_concurrency_sees_what_waits() -> None:
    by_use = elastic(scaling=Scaling(autoscaler=Autoscaler(smallest=1, largest=40)))
    by_count = elastic(scaling=Scaling(autoscaler=Autoscaler(smallest=1, largest=40), metric="concurrency", target=2.8))
    used, counted = run(by_use, rps=20.0), run(by_count, rps=20.0)
    # A processor is never more than all used; a queue may be any length, so the count rises faster.
    assert used.wait is not None
    assert counted.wait is not None
    assert counted.wait.mean_s < used.wait.mean_s


def test_requests_and_their_times_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="2 requests and 1 service times"):
        simulate(fixed(1, 10.0), np.zeros(2), np.zeros(1), seed=0)


def test_traffic_has_the_rate_that_was_asked_for() -> None:
    rng = np.random.default_rng(5)
    assert len(traffic.steady(10.0, 10_000.0, rng)) == pytest.approx(100_000, rel=0.02)
    day = traffic.daily(2.0, traffic.DAY_S, rng)
    assert len(day) == pytest.approx(172_800, rel=0.02)
    noon = ((day > 36_000) & (day < 50_400)).sum()
    night = ((day < 7200) | (day > 79_200)).sum()
    assert 6.0 < noon / night < 12.0
    assert (np.diff(day) >= 0.0).all()
    assert traffic.services(100_000, 3.0, rng).mean() == pytest.approx(3.0, rel=0.02)
    assert traffic.services(100_000, 3.0, rng, shape=100.0).std() == pytest.approx(0.3, rel=0.02)


def test_traces_are_read(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP,tokens\n2023-11-16 18:15:46.6805900,374\n2023-11-16 18:15:47.1805900,2\n")
    assert traffic.read(path) == pytest.approx([0.0, 0.5])
    path.write_text("7.5\n5\n\n6\n")
    assert list(traffic.read(path)) == [0.0, 1.0, 2.5]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no times"),
        (b"t\n", "no times"),
        (b"t\n1\nx\n", "row 3: 'x' is no time"),
        (b"1\nnan\n", "row 2"),
        (b"\xff\xfe\x00", "this is no CSV"),
    ],
)
def test_a_bad_trace_is_an_error(content: bytes, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_bytes(content)
    with pytest.raises(BadFile, match=r"trace\.csv") as caught:
        traffic.read(path)
    assert reason in str(caught.value)
