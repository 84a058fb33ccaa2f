"""What queueing theory says without a simulation.

- The wait of c servers is by Erlang's C formula (1917): a request waits with probability C and then exponentially with
  rate (cμ − λ), stretched by (1 + cv²)/2 where service times are not exponential (Allen and Cunneen, as in Bolch et
  al., Queueing Networks and Markov Chains, 2006).
- The servers of a function are tried in order, and the j-th sees what the first j − 1 refuse, by Erlang's B formula
  (ordered hunt: Cooper, Introduction to Queueing Theory, 1981). One that saw nothing for as long as idle ones are kept
  is started cold."""

from __future__ import annotations

from functools import lru_cache

import numba
import numpy as np
from numpy.typing import NDArray

from penstock.control.plan.workload import Floats, Traffic

LATE_MAX = 0.01
"""The share of answers that may be late: what a 99th percentile means."""
SERVERS_MAX = 4096
LEVELS = 16
"""Rates are told apart by so many levels."""

Ints = NDArray[np.int64]


@lru_cache(maxsize=64)
def unit_quantiles(shape: float) -> Floats:
    """A thousand evenly spaced quantiles of a service time of mean 1."""
    rng = np.random.default_rng(0)
    sample = np.sort(rng.gamma(shape, 1.0 / shape, 1_000_000))
    found: Floats = sample.reshape(1000, -1).mean(axis=1)
    return found


@numba.njit(cache=True)
def erlang_b(servers, offered):  # type: ignore[no-untyped-def]
    """The chance that all of so many servers are busy where nobody waits."""
    blocked = 1.0
    for count in range(1, servers + 1):
        blocked = offered * blocked / (count + offered * blocked)
    return blocked


@numba.njit(cache=True)
def erlang_c(servers, offered):  # type: ignore[no-untyped-def]
    """The chance to wait before so many servers; 1 where they cannot keep up."""
    if offered >= servers:
        return 1.0
    blocked = erlang_b(servers, offered)
    return blocked / (1.0 - offered / servers * (1.0 - blocked))


@numba.njit(cache=True)
def _late(rates, counts, times, service_s, stretch, within_s):  # type: ignore[no-untyped-def]
    found = np.empty(len(rates))
    for at in range(len(rates)):
        count, offered = counts[at], rates[at] * service_s
        if offered >= count:
            found[at] = 1.0
            continue
        waits = erlang_c(count, offered)
        clear = (count / service_s - rates[at]) * stretch
        total = 0.0
        for time in times:
            left = within_s - time
            total += 1.0 if left < 0.0 else waits * np.exp(-clear * left)
        found[at] = total / len(times)
    return found


def late_share(rates: Floats, servers: int | Ints, service_s: float, shape: float, within_s: float) -> Floats:
    """The share of answers that take longer than ``within_s``, at each rate."""
    counts = np.ascontiguousarray(np.broadcast_to(np.asarray(servers, np.int64), rates.shape))
    times, stretch = unit_quantiles(shape) * service_s, 2.0 / (1.0 + 1.0 / shape)
    found: Floats = _late(rates, counts, times, service_s, stretch, within_s)
    return found


@numba.njit(cache=True)
def backlog(rates, counts, step_s, service_s, within_s):  # type: ignore[no-untyped-def]
    """Waits where more requests come for a while than so many servers can serve, as a fluid that rises and falls: at
    the beginning and at the end of each step, and the share of its requests that are late by them."""
    steps = len(rates)
    begins, ends, late = np.zeros(steps), np.zeros(steps), np.zeros(steps)
    bound, before = max(within_s - service_s, 0.0), 0.0
    for turn in range(2):  # The first finds how the period begins.
        for step in range(steps):
            clears = counts[step] / service_s
            after = max(0.0, before + (rates[step] - clears) * step_s)
            first, last = before / clears, after / clears
            if turn == 1:
                begins[step], ends[step] = first, last
                low, high = min(first, last), max(first, last)
                if low > bound:
                    late[step] = 1.0
                elif high > bound:
                    late[step] = (high - bound) / (high - low)
            before = after
    return begins, ends, late


def mixed_late(traffic: Traffic, servers: int | Ints, service_s: float, shape: float, within_s: float) -> float:
    """The share of all answers that are late, where so many servers are there (in each step, or always)."""
    rates = np.asarray(traffic.rates)
    weights = rates / max(float(rates.sum()), 1e-300)
    counts = np.ascontiguousarray(np.broadcast_to(np.asarray(servers, np.int64), rates.shape))
    total = 0.0
    if (rates * service_s >= counts).any():
        begins, ends, late = backlog(rates, counts, traffic.step_s, service_s, within_s)
        stands = (begins > 0.0) | (ends > 0.0)
        total = float((late * weights)[stands].sum())
        rates, counts, weights = rates[~stands], counts[~stands], weights[~stands]
    grouped, shares, servers_of = levels(rates, counts, weights)
    return total + float((late_share(grouped, servers_of, service_s, shape, within_s) * shares).sum())


def levels(rates: Floats, counts: Ints, weights: Floats) -> tuple[Floats, Floats, Ints]:
    """Pairs of a rate and a number of servers, and what each weighs; near rates count as the higher one."""
    if not len(rates):
        return rates, weights, counts
    grid = np.unique(np.quantile(rates, np.linspace(0.0, 1.0, LEVELS + 1), method="higher"))
    place = np.searchsorted(grid, rates)
    pairs, where = np.unique(place * (int(counts.max()) + 1) + counts, return_inverse=True)
    of = pairs // (int(counts.max()) + 1)
    servers: Ints = pairs % (int(counts.max()) + 1)
    weighed = np.bincount(where, weights=weights).astype(np.float64)
    return grid[of], weighed, servers


def is_too_long(service_s: float, shape: float, within_s: float) -> bool:
    """Whether the work alone takes too long for 99 of 100 answers, whoever serves them."""
    return bool((unit_quantiles(shape) * service_s > within_s).mean() > LATE_MAX)


def servers_needed(
    traffic: Traffic, service_s: float, shape: float, within_s: float, late_max: float = LATE_MAX
) -> int | None:
    """The fewest servers with which no more answers are late than ``late_max``; None where no number is enough."""
    if is_too_long(service_s, shape, within_s):
        return None
    low = max(1, int(np.floor(traffic.mean_rps * service_s)))

    def enough(count: int) -> bool:
        return mixed_late(traffic, count, service_s, shape, within_s) <= late_max

    high = max(low, 1)
    while not enough(high):
        low, high = high + 1, high * 2
        if high > SERVERS_MAX:
            return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle + 1, high)
    return high


def busiest(offered: float, looks: float) -> int:
    """The most servers at work at once in so many independent looks, where nobody waits: a quantile of Poisson's."""
    if offered <= 0.0:
        return 0
    spread = np.sqrt(2.0 * np.log(max(looks, 1.0)))
    return int(np.ceil(offered + spread * np.sqrt(offered) + spread**2 / 6.0)) if looks > 1.0 else int(np.ceil(offered))


def highest_of(looks: float) -> float:
    """The highest of so many independent normal values, on average (Fisher and Tippett, 1928)."""
    if looks <= 1.5:
        return 0.0
    far = np.sqrt(2.0 * np.log(looks))
    return max(0.5, float(far - (np.log(np.log(looks)) + np.log(4.0 * np.pi)) / (2.0 * far)))


def cold_share(traffic: Traffic, service_s: float, keep_s: float, always: int = 0) -> float:
    """The share of requests that a function starts cold for, where ``always`` servers are kept warm."""
    if traffic.mean_rps <= 0.0:
        return 0.0
    rates = np.asarray(traffic.rates)
    levels, where = np.unique(rates, return_inverse=True)
    alone = np.array([_cold_rate(rate, service_s, keep_s, always) for rate in levels.tolist()])
    cold = float(alone[where].sum() * traffic.step_s)
    # And those that a rise of the rate needs, beyond what the last ``keep_s`` have left warm.
    memory = int(np.ceil(keep_s / traffic.step_s))
    peaks = np.array([busiest(rate * service_s, rate * traffic.step_s) for rate in levels])[where]
    if len(levels) > 1:
        around = np.concatenate([peaks[-memory:], peaks]) if memory < len(peaks) else np.tile(peaks, 2)
        span = min(memory, len(peaks))
        before = np.lib.stride_tricks.sliding_window_view(around, span)[-len(peaks) - 1 : -1].max(axis=1)
        warm = np.maximum(before, always)
        cold += float(np.maximum(peaks - warm, 0).sum())
    return min(1.0, cold / float(rates.sum() * traffic.step_s))


@numba.njit(cache=True)
def _cold_rate(rate, service_s, keep_s, always):  # type: ignore[no-untyped-def]
    """Cold starts a second at one rate."""
    offered = rate * service_s
    blocked, count, found = erlang_b(always, offered), always, 0.0
    while rate * blocked * keep_s > 1e-6 and count < SERVERS_MAX:
        count += 1
        here = rate * blocked
        blocked = offered * blocked / (count + offered * blocked)
        found += (here - rate * blocked) * np.exp(-here * keep_s)
    return found


@numba.njit(cache=True)
def reads_share(rate, service_s, every_s):  # type: ignore[no-untyped-def]
    """The share of requests that read something first, where each server does when it has not for ``every_s``."""
    offered = rate * service_s
    blocked, reads, count = 1.0, 0.0, 0
    while blocked > 1e-9 and count < SERVERS_MAX:
        count += 1
        after = offered * blocked / (count + offered * blocked)
        mine = rate * (blocked - after)
        if mine > 0.0:
            reads += 1.0 / (every_s + 1.0 / mine)
        blocked = after
    return min(1.0, reads / rate) if rate > 0.0 else 0.0
