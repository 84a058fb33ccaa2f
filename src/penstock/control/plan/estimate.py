"""What the formulas say of a candidate: quick, and the lower end of what a simulation will say."""

from __future__ import annotations

from math import inf

import numpy as np
from numpy.typing import NDArray

from penstock.control.plan import options, queueing
from penstock.control.plan.limits import INIT_S
from penstock.control.plan.options import Assumptions, Candidate, Market, fixed_usd, function_s, request_usd
from penstock.control.plan.result import Estimate
from penstock.control.plan.workload import Workload

Ints = NDArray[np.int64]


def estimate(candidate: Candidate, workload: Workload, market: Market) -> Estimate:
    """Cost, answer times and freshness, without a simulation."""
    if candidate.function_mib:
        return _functions(candidate, workload, market)
    if candidate.scales:
        workers, nodes = scaled(candidate, workload, market)
        usd = fixed_usd(candidate, market, float(nodes.mean()))
    else:
        workers, usd = np.array([candidate.workers]), fixed_usd(candidate, market)
    late = queueing.mixed_late(workload.traffic, workers, workload.service_s, workload.service_shape, workload.p99_s)
    return Estimate(
        usd_month=usd,
        late_share=min(1.0, late + taken_share(candidate, market)),
        fresh_p99_s=freshness(candidate, workload, market),
        workers_mean=float(workers.mean()),
    )


def scaled(candidate: Candidate, workload: Workload, market: Market) -> tuple[Ints, Ints]:
    """Workers that are ready, and nodes beyond the first that are paid for, in each step of the traffic."""
    assert candidate.target is not None
    ready, paid = follow(workload, market.assumptions, candidate.target, candidate.workers)
    return ready, candidate.nodes(paid)


def follow(workload: Workload, own: Assumptions, target: float, floor: int) -> tuple[Ints, Ints]:
    """Workers that are ready, and those that there are nodes for, where they follow the load, late up and later down.

    The autoscaler keeps the highest count of some minutes, so that it is what chance makes the highest that decides:
    the mean of the requests at work, and as many deviations (of Poisson's) as the highest of so many looks has."""
    traffic, service_s = workload.traffic, workload.service_s
    offered = np.asarray(traffic.rates) * service_s
    steps = [
        0 if len(offered) == 1 else int(np.ceil(each / traffic.step_s))
        for each in (own.scaling_lag_s, own.scaling_hold_s, own.node_hold_s)
    ]
    lag, hold, longer = steps

    def wanted(over_s: float) -> Ints:
        looks = over_s / max(own.scaling_look_s, 2.0 * service_s)
        highest = offered + queueing.highest_of(looks) * np.sqrt(offered)
        return np.maximum(np.ceil(highest / target), floor).astype(np.int64)

    ready = np.roll(_highest(wanted(own.scaling_hold_s), hold + 1), lag)
    return ready, _highest(wanted(own.scaling_hold_s + own.node_hold_s), lag + hold + longer + 1)


def taken_share(candidate: Candidate, market: Market) -> float:
    """The share of the time in which more spot nodes are missing than are spare."""
    if not candidate.is_spot or not candidate.spare_nodes:
        return 0.0
    if candidate.scales:
        return options.TAKEN_MAX  # What its spare nodes are enough for in the busiest hour.
    return options.missing_share(candidate.more_nodes, candidate.spare_nodes, market.assumptions)


def freshness(candidate: Candidate, workload: Workload, market: Market) -> float | None:
    """Within what time 99 of 100 events are in the predictions."""
    if not workload.learns:
        return None
    own = market.assumptions
    extra = own.publish_s + (candidate.refresh_s + own.fetch_s if candidate.refresh_s else 0.0)
    come = np.asarray(workload.traffic.rates) * workload.events_per_request
    if workload.learn_s <= 0.0:
        return extra
    if float(come.mean()) * workload.learn_s >= 1.0:
        return inf
    # In seconds of the learner's work: what a step brings, less the step.
    gains = (come * workload.learn_s - 1.0) * workload.traffic.step_s
    backlog, late = 0.0, np.zeros(len(come))
    if (gains > 0.0).any():
        for _ in range(2):
            for step, gain in enumerate(gains.tolist()):
                late[step] = backlog = max(0.0, backlog + gain)
    order = np.argsort(late)
    reached = np.searchsorted(np.cumsum(come[order]), 0.99 * come.sum())
    busy = np.minimum(come * workload.learn_s, 0.999)
    # Of one server with even service times: the mean wait (Pollaczek and Khinchine), and 4.6 times it for 99 of 100.
    waits = 4.6 * busy * workload.learn_s / (2.0 * (1.0 - busy))
    return float(late[order[min(reached, len(late) - 1)]] + np.quantile(waits, 0.99) + workload.learn_s + extra)


def _functions(candidate: Candidate, workload: Workload, market: Market) -> Estimate:
    own = market.assumptions
    took_s = function_s(candidate, workload, own)
    cold = queueing.cold_share(workload.traffic, took_s, own.keep_warm_s, candidate.kept_warm)
    reads = 0.0
    if candidate.refresh_s:
        reads = queueing.reads_share(workload.traffic.mean_rps, took_s, candidate.refresh_s)
    start_s = cold_s(workload)
    times = queueing.unit_quantiles(workload.service_shape) * took_s
    billed = took_s + cold * start_s + reads * own.fetch_s
    each = request_usd(candidate, market, billed) + reads * (market.rate("s3 reads") or 0.0) / 1e6

    plain, started, read = (float((times + extra > workload.p99_s).mean()) for extra in (0.0, start_s, own.fetch_s))
    return Estimate(
        usd_month=fixed_usd(candidate, market) + each * workload.requests_a_month,
        late_share=(1.0 - cold - reads) * plain + cold * started + reads * read,
        fresh_p99_s=freshness(candidate, workload, market),
        cold_starts_month=cold * workload.requests_a_month,
        workers_mean=workload.traffic.mean_rps * took_s,
    )


def cold_s(workload: Workload) -> float:
    """What a cold start adds: beyond its ten seconds the start of a function is broken off, and begins anew."""
    return workload.start_s if workload.start_s <= INIT_S else INIT_S + workload.start_s


def _highest(values: Ints, window: int) -> Ints:
    """The highest of this step and the ``window − 1`` before it, the period going round."""
    if window <= 1:
        return values
    if window >= len(values):
        return np.full(len(values), values.max())
    around = np.concatenate([values[-(window - 1) :], values])
    found: Ints = np.lib.stride_tricks.sliding_window_view(around, window).max(axis=1)
    return found
