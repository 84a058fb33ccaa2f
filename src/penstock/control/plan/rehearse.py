"""One candidate on a whole cluster: both autoscalers, nodes that come late, spot nodes that are taken, the learner."""

from __future__ import annotations

import msgspec
import numpy as np

from penstock.control.autoscale.horizontal import Autoscaler
from penstock.control.nodes.autoscaler import NodeGroup
from penstock.control.nodes.shapes import NodeShape, PodShape
from penstock.control.plan.estimate import follow
from penstock.control.plan.options import (
    Candidate,
    Market,
    allocatable_m,
    allocatable_mib,
    hourly,
    learner_m,
)
from penstock.control.plan.trial import arrivals_of
from penstock.control.plan.workload import DAY_S, HOURS_A_MONTH, Floats, Traffic, Workload
from penstock.control.prices.catalogue import Instance
from penstock.control.simulate.outcome import Outcome
from penstock.control.simulate.run import simulate
from penstock.control.simulate.scenario import Delay, Learning, Pool, Scaling, Scenario, Serving
from penstock.control.simulate.traffic import services

REQUESTS_MAX = 300_000
TRACE_MAX_S = 14 * DAY_S
"""Of a longer trace its busiest two weeks: controllers look every few seconds, whether anything comes or not."""
NODE = Delay(median_s=90.0, spread=0.3)
"""From the request to Ready: some 30 to 90 s with Karpenter, 3 to 5 minutes with the Cluster Autoscaler."""
IMAGE = Delay(median_s=30.0, spread=0.3)
"""An image of some hundred MB, pulled once a node."""
NOTICE_S = 30.0
"""Before a spot machine is taken: 30 s at Google, 120 s at Amazon."""
MIB = 2**20


class Rehearsal(msgspec.Struct, frozen=True, kw_only=True):
    """What came of it."""

    hours: float
    requests: int
    p50_s: float
    p99_s: float
    fresh_p99_s: float | None
    usd_month: float | None
    """At the price of these hours; None where they are the busiest part of a longer period."""
    cold_starts: int
    reclaimed: int
    holds: bool | None
    """Whether answers and freshness were as wanted; None where it was only the busiest part of a modelled day."""
    digest: str


def rehearse(
    candidate: Candidate, workload: Workload, market: Market, *, seed: int, arrivals: Floats | None = None
) -> Rehearsal:
    """Run a candidate that is no function on a simulated cluster: a day, or as much of its busiest part as has
    300,000 requests; or on these arrivals, or their busiest two weeks."""
    rng = np.random.default_rng([seed, 11])
    if arrivals is None:
        whole = workload.traffic.mean_rps * max(DAY_S, workload.traffic.period_s) <= REQUESTS_MAX
        times, begins_s, lasts_s = stretch(workload.traffic, rng)
    else:
        times, begins_s, lasts_s = busiest(arrivals)
        whole = len(times) == len(arrivals)
    took = services(len(times), workload.service_s, rng, shape=workload.service_shape)
    outcome = simulate(scenario(candidate, workload, market, begins_s, lasts_s), times, took, seed=seed)
    response, fresh = outcome.response, outcome.freshness
    p99_s = np.inf if response is None else response.p99_s
    late = None if fresh is None else fresh.p99_s
    wanted = p99_s <= workload.p99_s and (late is None or workload.fresh_s is None or late <= workload.fresh_s)
    return Rehearsal(
        hours=lasts_s / 3600.0,
        requests=outcome.requests,
        p50_s=np.inf if response is None else response.p50_s,
        p99_s=p99_s,
        fresh_p99_s=late,
        usd_month=_a_month(outcome, lasts_s) if whole else None,
        cold_starts=outcome.cold_starts,
        reclaimed=outcome.reclaimed,
        holds=wanted if whole or arrivals is not None else None,
        digest=outcome.digest,
    )


def scenario(candidate: Candidate, workload: Workload, market: Market, begins_s: float, lasts_s: float) -> Scenario:
    """The candidate as a cluster to simulate, as it stands when the stretch begins."""
    own, first = market.assumptions, candidate.machine
    assert first is not None
    cluster = candidate.option != "one machine"
    kept_m, kept_mib = (own.node_system_m + own.dns_m, 0) if cluster else (0, own.system_mib)
    pools = [_pool("first", first, 1, 1, kept_m, kept_mib, first.price, cluster=cluster)]
    replicas, nodes, most = candidate.workers, candidate.more_nodes, candidate.more_nodes
    scaling = None
    if candidate.target is not None:
        ready, paid = follow(workload, own, candidate.target, candidate.workers)
        at = int(begins_s // workload.traffic.step_s) % len(ready)
        replicas, nodes = int(ready[at]), int(candidate.nodes(paid[at : at + 1])[0])
        largest = 2 * int(np.ceil(workload.traffic.peak_rps * workload.service_s / candidate.target)) + 2
        most = int(candidate.nodes(np.array([largest]))[0])
        scaling = Scaling(
            autoscaler=Autoscaler(smallest=candidate.workers, largest=largest),
            metric="concurrency",
            target=candidate.target,
        )
    if candidate.more is not None:
        price = hourly(candidate.more, candidate.is_spot)
        more = _pool("more", candidate.more, nodes, most, own.node_system_m, 0, price, cluster=True)
        smallest = candidate.more_nodes if scaling is None else candidate.more_nodes + candidate.spare_nodes
        group = msgspec.structs.replace(more.group, smallest=min(smallest, most))
        taken = own.reclaims_per_h if candidate.is_spot else 0.0
        pools.append(msgspec.structs.replace(more, group=group, spot_reclaims_per_h=taken, spot_notice_s=NOTICE_S))
    gpu = int(workload.device == "serving")
    return Scenario(
        duration_s=lasts_s,
        serving=Serving(
            pod=PodShape(cpu_m=1000, memory_b=round(workload.server_mib * MIB), gpu=gpu, owner="server"),
            replicas=replicas,
            image_pull=IMAGE,
            model_load=Delay(median_s=workload.start_s),
        ),
        pools=tuple(pools),
        scaling=scaling,
        learning=_learning(workload, market),
        overhead_usd_h=(market.fee(candidate.cloud) or 0.0) if cluster else 0.0,
    )


def _learning(workload: Workload, market: Market) -> Learning | None:
    if not workload.learns:
        return None
    own = market.assumptions
    shape = PodShape(
        cpu_m=learner_m(workload, own),
        memory_b=round(workload.learner_mib * MIB),
        gpu=int(workload.device == "learning"),
        owner="learner",
    )
    return Learning(
        pod=shape,
        events_per_request=workload.events_per_request,
        rate_eps=1.0 / max(workload.learn_s, 1e-9),
        publish_s=own.publish_s + workload.learn_s,
    )


def _pool(
    name: str, machine: Instance, target: int, most: int, kept_m: int, kept_mib: int, usd_h: float, *, cluster: bool
) -> Pool:
    cpu_m = allocatable_m(machine.vcpu) if cluster else round(machine.vcpu * 1000)
    memory_mib = allocatable_mib(machine.memory_mib) if cluster else machine.memory_mib
    shape = NodeShape(cpu_m=cpu_m - kept_m, memory_b=(memory_mib - kept_mib) * MIB, gpu=machine.gpus)
    group = NodeGroup(name=name, shape=shape, smallest=target, largest=max(most, target), target=target)
    return Pool(group=group, provision=NODE, usd_h=usd_h)


def stretch(traffic: Traffic, rng: np.random.Generator, most: float = REQUESTS_MAX) -> tuple[Floats, float, float]:
    """Requests of a day (or of the whole period, where that is longer), or of its busiest part; where that begins, and
    how long it is."""
    periods = max(1, int(np.ceil(DAY_S / traffic.period_s)))
    lasts_s = periods * traffic.period_s
    if traffic.mean_rps * lasts_s <= most:
        return arrivals_of(traffic, periods, rng), 0.0, lasts_s
    busiest_s = int(np.argmax(traffic.rates)) * traffic.step_s
    lasts_s = most / traffic.peak_rps
    begins_s = max(0.0, busiest_s - lasts_s / 2.0)
    first, last = int(begins_s // traffic.step_s), int((begins_s + lasts_s) // traffic.step_s) + 1
    steps = [traffic.rates[step % len(traffic.rates)] for step in range(first, last)]
    part = msgspec.structs.replace(traffic, rates=tuple(steps))
    times = arrivals_of(part, 1, rng) - (begins_s - first * traffic.step_s)
    return times[(times >= 0.0) & (times < lasts_s)], begins_s, lasts_s


def busiest(arrivals: Floats, longest_s: float = TRACE_MAX_S) -> tuple[Floats, float, float]:
    """The arrivals, in order, of as long a stretch as has most of them, from its beginning on; where that begins, and
    how long it is."""
    lasts_s = float(arrivals[-1]) + 1.0
    if lasts_s <= longest_s:
        return arrivals, 0.0, lasts_s
    within = np.searchsorted(arrivals, arrivals + longest_s) - np.arange(len(arrivals))
    first = int(np.argmax(within))
    begins_s = min(float(arrivals[first]), lasts_s - longest_s)
    stop = int(np.searchsorted(arrivals, begins_s + longest_s))
    times = arrivals[np.searchsorted(arrivals, begins_s) : stop]
    return times - begins_s, begins_s, longest_s


def _a_month(outcome: Outcome, lasts_s: float) -> float:
    return outcome.cost.total_usd / (lasts_s / 3600.0) * HOURS_A_MONTH
