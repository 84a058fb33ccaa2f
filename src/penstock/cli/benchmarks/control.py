"""The simulated cluster beside what is known of such clusters."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from penstock.control.autoscale.horizontal import Autoscaler
from penstock.control.nodes.autoscaler import NodeGroup
from penstock.control.nodes.packing import Alike, pack
from penstock.control.nodes.shapes import ACCELERATOR_LABELS, DEVICE_TAINT, NodeShape, PodShape, Taint, Toleration
from penstock.control.simulate import traffic
from penstock.control.simulate.outcome import Outcome
from penstock.control.simulate.queue import Queue
from penstock.control.simulate.run import simulate
from penstock.control.simulate.scenario import Delay, Learning, Pool, Scaling, Scenario, Serving

SERVERS = 4
UTILIZATIONS = {0.3: 4_000_000, 0.5: 4_000_000, 0.7: 8_000_000, 0.8: 16_000_000, 0.9: 32_000_000, 0.95: 64_000_000}
"""Requests by utilisation. The waits of neighbours resemble one another the more the busier the servers are: the error
of the mean of n waits is about 58/√n of it at 0.95 (Whitt, 1989), and so 0.7 %."""
CHUNK = 2_000_000
OFF_MAX = 0.02
BILL_OFF_MAX = 1e-6
DAY_REQUESTS = 1_000_000
DAY_MAX_S = 10.0


class Erlang(msgspec.Struct, frozen=True, kw_only=True):
    """The mean wait at one utilisation, in service times."""

    utilization: float
    requests: int
    wait: float
    formula: float
    off: float
    """Relative to the formula."""


class Day(msgspec.Struct, frozen=True, kw_only=True):
    """A day with both autoscalers at work."""

    requests: int
    took_s: float
    processor_s: float
    repeats_to_the_byte: bool
    other_seed_differs: bool
    bill_off: float
    """What workload, idle and overhead differ from the whole, relative to it."""
    replicas_max: int
    nodes_max: int
    usd: float
    wait_p99_s: float


class Simulated(msgspec.Struct, frozen=True, kw_only=True):
    """All figures."""

    erlang: list[Erlang]
    day: Day
    packed_pods: int
    packed_nodes: int
    """Of 51,000 pods of two sizes; 2,595 in the Cluster Autoscaler's own benchmark."""
    nodes_with_label: int
    nodes_without_label: int
    """Nodes bought for one pod that needs a device, whose plugin is slower than the autoscaler's look."""
    holds: bool
    """Whether every figure is within its bound, time aside."""


def measure(note: Callable[[str], None]) -> Simulated:
    """Take all figures; about a minute."""
    erlang = []
    for utilization, requests in UTILIZATIONS.items():
        wait, formula = mean_wait(utilization, requests), erlang_wait(SERVERS, utilization)
        off = wait / formula - 1.0
        erlang.append(Erlang(utilization=utilization, requests=requests, wait=wait, formula=formula, off=off))
        note(f"utilisation {utilization}: mean wait {wait:.4f}, by the formula {formula:.4f} ({off:+.2%})")
    day = _day()
    note(f"a day of {day.requests:,} requests: {day.took_s:.1f} s")
    packing = pack(
        [
            Alike(pod=PodShape(cpu_m=50, memory_b=100), count=50_000),
            Alike(pod=PodShape(cpu_m=95, memory_b=190), count=1000),
        ],
        NodeShape(cpu_m=1000, memory_b=5000 * 2**20, max_pods=100),
        max_new_nodes=3000,
    )
    labelled, bare = (_with_devices(labels).nodes_bought for labels in ({ACCELERATOR_LABELS[0]: "nvidia-l4"}, {}))
    holds = (
        all(abs(each.off) <= OFF_MAX for each in erlang)
        and day.repeats_to_the_byte
        and day.other_seed_differs
        and abs(day.bill_off) <= BILL_OFF_MAX
        and labelled == 1 < bare
    )
    return Simulated(
        erlang=erlang,
        day=day,
        packed_pods=packing.pods,
        packed_nodes=packing.nodes,
        nodes_with_label=labelled,
        nodes_without_label=bare,
        holds=holds,
    )


def tables(report: Simulated) -> dict[str, list[dict[str, Any]]]:
    """Tables for people, by their titles."""
    return {
        f"Mean wait of {SERVERS} servers, in service times": [
            {
                "utilisation": each.utilization,
                "requests": each.requests,
                "wait": each.wait,
                "Erlang C": each.formula,
                "off": f"{each.off:+.2%}",
            }
            for each in report.erlang
        ],
    }


def words(report: Simulated) -> Sequence[str]:
    """Sentences for people."""
    day = report.day
    return (
        f"A day of {day.requests:,} requests with both autoscalers takes {day.took_s:.1f} s here "
        f"({day.processor_s:.1f} s of one processor; the bound is {DAY_MAX_S:.0f} s).",
        f"The same seed {'gives' if day.repeats_to_the_byte else 'does NOT give'} the same bytes; another one "
        f"{'others' if day.other_seed_differs else 'the SAME'}.",
        f"Workload, idle and overhead differ from the whole bill by {abs(day.bill_off):.1e} of it.",
        f"{report.packed_pods:,} waiting pods need {report.packed_nodes:,} nodes.",
        f"For one pod with a device {report.nodes_with_label} node is bought where nodes have their accelerator label, "
        f"and {report.nodes_without_label} where they have not.",
    )


def erlang_wait(servers: int, utilization: float) -> float:
    """The mean wait of an M/M/c queue in service times (Erlang, 1917)."""
    offered = servers * utilization
    busy = offered**servers / math.factorial(servers) / (1.0 - utilization)
    queues = busy / (sum(offered**k / math.factorial(k) for k in range(servers)) + busy)
    return queues / (servers * (1.0 - utilization))


def mean_wait(utilization: float, requests: int) -> float:
    """The mean wait of the simulated queue, in chunks, so that memory does not bound how many requests there are."""
    rng = np.random.default_rng(int(utilization * 1000))
    begins, total = 0.0, 0.0
    before: Queue | None = None
    for _ in range(requests // CHUNK):
        arrivals = begins + np.cumsum(rng.exponential(1.0 / (SERVERS * utilization), CHUNK))
        queue = Queue(arrivals, rng.exponential(1.0, CHUNK), 1)
        for server in range(SERVERS):
            queue.open(server, 0.0)
        if before is not None:
            queue.opens = before.opens
        queue.advance(np.inf)
        total += float(queue.waits.sum())
        begins, before = float(arrivals[-1]), queue
    return total / (requests // CHUNK * CHUNK)


def _day() -> Day:
    rng = np.random.default_rng(1)
    arrivals = traffic.daily(DAY_REQUESTS / traffic.DAY_S, traffic.DAY_S, rng)
    services = traffic.services(len(arrivals), 2.0, rng)
    scenario = _elastic()
    simulate(msgspec.structs.replace(scenario, duration_s=60.0), arrivals, services, seed=1)  # compiles the loop
    began, began_processor = time.perf_counter(), time.process_time()
    outcome = simulate(scenario, arrivals, services, seed=1)
    took_s, processor_s = time.perf_counter() - began, time.process_time() - began_processor
    again, other = (simulate(scenario, arrivals, services, seed=seed) for seed in (1, 2))
    cost = outcome.cost
    parts = cost.workload_usd + cost.idle_usd + cost.overhead_usd
    return Day(
        requests=outcome.requests,
        took_s=took_s,
        processor_s=processor_s,
        repeats_to_the_byte=msgspec.json.encode(outcome) == msgspec.json.encode(again),
        other_seed_differs=outcome.digest != other.digest,
        bill_off=parts / cost.total_usd - 1.0,
        replicas_max=outcome.replicas_max,
        nodes_max=outcome.nodes_max,
        usd=cost.total_usd,
        wait_p99_s=outcome.wait.p99_s if outcome.wait is not None else math.nan,
    )


def _elastic() -> Scenario:
    node = NodeShape(cpu_m=4000, memory_b=16 * 2**30)
    return Scenario(
        duration_s=traffic.DAY_S,
        serving=Serving(
            pod=PodShape(cpu_m=1000, memory_b=2 * 2**30, owner="server"),
            replicas=2,
            concurrency=4,
            image_pull=Delay(median_s=60.0, spread=0.3),
            model_load=Delay(median_s=20.0, spread=0.3),
        ),
        pools=(Pool(group=NodeGroup(name="nodes", shape=node, smallest=1, largest=20, target=2), usd_h=0.2),),
        scaling=Scaling(autoscaler=Autoscaler(smallest=2, largest=40)),
        learning=Learning(pod=PodShape(cpu_m=500, memory_b=2**30, owner="learner"), rate_eps=50.0),
        overhead_usd_h=0.1,
    )


def _with_devices(labels: dict[str, str]) -> Outcome:
    shape = NodeShape(cpu_m=4000, memory_b=2**34, gpu=1, labels=labels, taints=(Taint(key=DEVICE_TAINT),))
    pod = PodShape(cpu_m=1000, memory_b=2**30, gpu=1, tolerations=(Toleration(key=DEVICE_TAINT),))
    pool = Pool(
        group=NodeGroup(name="devices", shape=shape),
        usd_h=1.0,
        provision=Delay(median_s=120.0),
        device_plugin=Delay(median_s=90.0),
    )
    scenario = Scenario(duration_s=3600.0, serving=Serving(pod=pod), pools=(pool,))
    rng = np.random.default_rng(1)
    arrivals = traffic.steady(0.3, 3600.0, rng)
    return simulate(scenario, arrivals, traffic.services(len(arrivals), 1.0, rng), seed=1)
