"""A quick simulation of one candidate: requests that come at random, queue and are served, without a cluster around.

Machines and clusters whose traffic is little enough: whole periods of it, one after the other. Others: at each rate a
stretch of requests is drawn and served by as many workers as there are then, and the stretches count by how many
requests really come at that rate; where more come for a while than can be served, the wait is that of a fluid.
Functions: whole periods, or stretches like those; each server is kept warm for its time, the one that was freed last is
taken first, and what no warm one takes starts cold."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

from penstock.control.plan import estimate as formulas
from penstock.control.plan import queueing
from penstock.control.plan.options import Assumptions, Candidate, Market, fixed_usd, function_s, request_usd
from penstock.control.plan.queueing import Ints
from penstock.control.plan.result import Result
from penstock.control.plan.workload import Floats, Traffic, Workload
from penstock.control.simulate.queue import Queue
from penstock.control.simulate.traffic import services as draw

REQUESTS = 24_000
"""Of one trial, over all stretches."""
STRETCH_MIN = 400
SETTLED, SETTLED_MAX = 4.0, 2_500.0
"""A queue that began empty forgets it over some 1/(1 − ρ)² requests (Whitt, 1989). Four times as many are drawn before
a stretch is counted, and ten times those are counted; where that would be more than 25,000, none are drawn."""
BACKLOG_POINTS = 16
"""Of a step in which more come than can be served: the waits in it are those of a fluid, at so many moments."""
WARM_UP = 0.2
"""Of a stretch, before it is counted: it begins with nobody waiting."""
WHOLE_MAX = 60_000
"""Requests of a period up to which whole periods are simulated."""


def trial(candidate: Candidate, workload: Workload, market: Market, *, seed: int, requests: int = REQUESTS) -> Result:
    """Simulate a candidate."""
    rng = np.random.default_rng([seed, 7])
    if candidate.function_mib:
        return _functions(candidate, workload, market, rng, requests)
    if candidate.scales:
        workers, nodes = formulas.scaled(candidate, workload, market)
        usd = fixed_usd(candidate, market, float(nodes.mean()))
    else:
        workers, usd = np.array([candidate.workers]), fixed_usd(candidate, market)
    took, weights = pool(workload, workers, rng, requests)
    late = float(weights[took > workload.p99_s].sum()) + formulas.taken_share(candidate, market)
    p50_s, p99_s = middle_and_99th(took, weights)
    return Result(
        usd_month=usd,
        p50_s=p50_s,
        p99_s=p99_s,
        late_share=min(1.0, late),
        fresh_p99_s=formulas.freshness(candidate, workload, market),
        workers_mean=float(workers.mean()),
    )


def pool(workload: Workload, workers: Ints, rng: np.random.Generator, requests: int) -> tuple[Floats, Floats]:
    """How long requests take and what each weighs, where so many workers serve each step (or always)."""
    traffic, service_s, shape = workload.traffic, workload.service_s, workload.service_shape
    rates = np.asarray(traffic.rates)
    weights = rates / max(float(rates.sum()), 1e-300)
    counts = np.ascontiguousarray(np.broadcast_to(workers, rates.shape))
    period = traffic.mean_rps * traffic.period_s
    if len(workers) == 1 and period <= WHOLE_MAX and len(set(traffic.rates)) > 1:
        arrivals = arrivals_of(traffic, max(1, round(requests / max(period, 1.0))), rng)
        services = draw(len(arrivals), service_s, rng, shape=shape)
        return _waits(arrivals, services, int(workers[0])) + services, np.full(len(arrivals), 1.0 / len(arrivals))
    times, weighed = [], []
    if (rates * service_s >= counts).any():
        begins, ends, _ = queueing.backlog(rates, counts, traffic.step_s, service_s, workload.p99_s)
        stands = (begins > 0.0) | (ends > 0.0)
        parts = (np.arange(BACKLOG_POINTS) + 0.5) / BACKLOG_POINTS
        waits = begins[stands, None] + (ends - begins)[stands, None] * parts
        times.append(waits.ravel() + service_s)
        weighed.append(np.repeat(weights[stands] / BACKLOG_POINTS, BACKLOG_POINTS))
        rates, counts, weights = rates[~stands], counts[~stands], weights[~stands]
    for rate, weight, count in zip(*queueing.levels(rates, counts, weights), strict=True):
        if rate <= 0.0:
            continue
        settles = SETTLED / max(1.0 - rate * service_s / count, 1e-9) ** 2
        size = max(STRETCH_MIN, round(max(requests * float(weight), 10.0 * settles)))
        if settles > SETTLED_MAX:
            # Too near to being always busy to be simulated in passing: the formulas say how many are late.
            late = queueing.late_share(np.array([rate]), int(count), service_s, shape, workload.p99_s)[0]
            times.append(np.array([service_s, 2.0 * workload.p99_s]))
            weighed.append(weight * np.array([1.0 - late, late]))
            continue
        drawn = size + round(max(size * WARM_UP, settles))
        services = draw(drawn, service_s, rng, shape=shape)
        waits = _waits(np.cumsum(rng.exponential(1.0 / rate, drawn)), services, int(count))
        times.append((waits + services)[-size:])
        weighed.append(np.full(size, weight / size))
    if not times:
        return np.zeros(1), np.ones(1)
    return np.concatenate(times), np.concatenate(weighed)


def middle_and_99th(values: Floats, weights: Floats) -> tuple[float, float]:
    """The values that half of the weight, and 99 % of it, is at or below."""
    order = np.argsort(values)
    below = np.cumsum(weights[order])
    half, most = np.searchsorted(below, np.array([0.5, 0.99]) * below[-1]).tolist()
    last = len(order) - 1
    return float(values[order[min(half, last)]]), float(values[order[min(most, last)]])


def arrivals_of(traffic: Traffic, periods: int, rng: np.random.Generator) -> Floats:
    """Times of requests over so many periods, in order."""
    rates = np.tile(np.asarray(traffic.rates), periods)
    counts = rng.poisson(rates * traffic.step_s)
    begins = np.repeat(np.arange(len(rates)) * traffic.step_s, counts)
    found: Floats = np.sort(begins + rng.uniform(0.0, traffic.step_s, len(begins)))
    return found


@numba.njit(cache=True)
def serve_functions(  # type: ignore[no-untyped-def]
    arrivals, services, keep_s, always, warm, start_s, refresh_s, fetch_s
):
    """How long each request takes in functions, and whether it started one or read weights."""
    total = len(arrivals)
    took, cold, read = np.empty(total), np.zeros(total, np.bool_), np.zeros(total, np.bool_)
    free, fresh = np.empty(total + warm + 1), np.empty(total + warm + 1)
    count = max(warm, always)
    first = arrivals[0] if total else 0.0
    for server in range(count):
        free[server], fresh[server] = first, first
    for request in range(total):
        now = arrivals[request]
        best, spare = -1, -1
        for server in range(count):
            if free[server] > now:
                continue
            if server < always:
                # Those that are always ready are taken first.
                best = server
                break
            if now - free[server] > keep_s:
                spare = server
            elif best < 0 or free[server] > free[best]:
                best = server
        extra = 0.0
        if best < 0:
            best = spare
            if best < 0:
                best = count
                count += 1
            cold[request] = True
            extra = start_s
            fresh[best] = now
        elif refresh_s > 0.0 and now - fresh[best] >= refresh_s:
            read[request] = True
            extra = fetch_s
            fresh[best] = now
        took[request] = services[request] + extra
        free[best] = now + took[request]
    return took, cold, read


def _functions(
    candidate: Candidate, workload: Workload, market: Market, rng: np.random.Generator, requests: int
) -> Result:
    own, traffic = market.assumptions, workload.traffic
    each_s = function_s(candidate, workload, own)
    period = traffic.mean_rps * traffic.period_s
    parts: list[tuple[Floats, int, float]] = []
    if period <= WHOLE_MAX:
        periods = max(
            1, int(np.ceil(requests / max(period, 1.0))), int(np.ceil(2 * own.keep_warm_s / traffic.period_s))
        )
        parts.append((arrivals_of(traffic, periods, rng), 0, 1.0))
    else:
        all_rates = np.asarray(traffic.rates)
        none = np.zeros(len(all_rates), np.int64)
        rates, weights, _ = queueing.levels(all_rates, none, all_rates / float(all_rates.sum()))
        for rate, weight in zip(rates.tolist(), weights.tolist(), strict=True):
            size = max(STRETCH_MIN, round(requests * weight))
            warm = queueing.busiest(rate * each_s, rate * own.keep_warm_s)
            parts.append((np.cumsum(rng.exponential(1.0 / rate, size)), warm, weight))
    times, colds, reads, weights_of = [], 0.0, 0.0, []
    for arrivals, warm, weight in parts:
        took, cold, read = _serve(candidate, workload, own, each_s, arrivals, warm, rng)
        counted = slice(np.searchsorted(arrivals, own.keep_warm_s) if warm == 0 and len(took) > 10 else 0, None)
        took, cold, read = took[counted], cold[counted], read[counted]
        if not len(took):
            continue
        times.append(took)
        weights_of.append(np.full(len(took), weight / len(took)))
        colds += weight * float(cold.mean())
        reads += weight * float(read.mean())
    took_all, weights_all = (np.concatenate(x) if x else np.ones(1) * each_s for x in (times, weights_of))
    mean_s = float((took_all * weights_all).sum() / weights_all.sum())
    each = request_usd(candidate, market, mean_s) + reads * (market.rate("s3 reads") or 0.0) / 1e6
    p50_s, p99_s = middle_and_99th(took_all, weights_all)
    return Result(
        usd_month=fixed_usd(candidate, market) + each * workload.requests_a_month,
        p50_s=p50_s,
        p99_s=p99_s,
        late_share=float(weights_all[took_all > workload.p99_s].sum() / weights_all.sum()),
        fresh_p99_s=formulas.freshness(candidate, workload, market),
        cold_starts_month=colds * workload.requests_a_month,
        workers_mean=traffic.mean_rps * each_s,
    )


def _serve(
    candidate: Candidate,
    workload: Workload,
    own: Assumptions,
    each_s: float,
    arrivals: Floats,
    warm: int,
    rng: np.random.Generator,
) -> tuple[Floats, NDArray[np.bool_], NDArray[np.bool_]]:
    services = draw(len(arrivals), each_s, rng, shape=workload.service_shape)
    start_s = formulas.cold_s(workload)
    found: tuple[Floats, NDArray[np.bool_], NDArray[np.bool_]] = serve_functions(
        arrivals, services, own.keep_warm_s, candidate.kept_warm, warm, start_s, candidate.refresh_s, own.fetch_s
    )
    return found


def _waits(arrivals: Floats, services: Floats, workers: int) -> Floats:
    queue = Queue(arrivals, services, workers)
    queue.open(0, 0.0)
    queue.advance(np.inf)
    return queue.waits
