"""Takes the cheapest way that holds what is wanted.

Every way is a ladder of candidates, each dearer and stronger than the one before: more machines, a lower target, more
functions that are kept warm. The ladders are climbed by what the formulas say of cost, the cheapest first; a candidate
is simulated when it is the cheapest that is left, and the first that holds is taken. So what is dearer than the choice
is never simulated, and what is cheaper has been, and failed."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import islice

import msgspec
import numpy as np

from penstock.control.plan import options, queueing
from penstock.control.plan.estimate import estimate, follow
from penstock.control.plan.limits import broken, forbidden
from penstock.control.plan.options import OPTIONS, Assumptions, Candidate, Market, Option, fixed_usd
from penstock.control.plan.result import Result
from penstock.control.plan.workload import Workload

TARGETS = (0.8, 0.65, 0.5, 0.35)
"""Requests at work for each worker that a scaled candidate is sized to, the cheapest first."""
FLOORS = (1, 2, 4)
"""Times the workers that the quietest hour needs: the fewest of a scaled candidate."""
RUNGS_MAX = 48
"""Of a ladder: beyond, what is wanted is not to be had by more of the same."""
OPTIMISM = 0.1
"""The first rung of a ladder is what the formulas say is enough for ten times as many late answers as may be: they are
approximations, and the simulation is asked before anything is taken."""
CAUTION = 0.8
"""Of the late answers that may be, so many at most in the simulation by which something is taken: another month is
another sample."""

NEAR = (0.1, 1.2)
"""Times the late answers that may be: a simulation between these is repeated with four times the requests."""

CONFIRMED = 16
"""Draws of requests on which what is to be taken is simulated once more where traffic changes or machines are taken
away: in one of them there are a few bursts and losses, and a lucky draw of them is not what is promised."""
DRAW = 1_000_003
"""From the seed of one draw to that of the next."""
ERRORS = 2.0
"""Standard errors, over these draws, that are added to the mean of what is late."""

Judge = Callable[[Candidate, Workload, int, int], Result]
"""Simulates a candidate with a seed, on so many times the usual number of requests."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one option."""

    option: Option
    candidate: Candidate | None = None
    """None where nothing of the kind can be."""
    result: Result | None = None
    limit: str = ""
    """The limit that it breaks; empty where it holds all."""
    reason: str = ""

    @property
    def holds(self) -> bool:
        """Whether it could be taken."""
        return not self.limit


def choose(workload: Workload, market: Market, judge: Judge, *, seed: int) -> Verdict | None:
    """The cheapest candidate that holds, of all options; None where none does."""
    waiting: list[tuple[float, int, Candidate, Iterator[Candidate]]] = []
    for order, (_, ladder) in enumerate(ladders(workload, market)):
        _push(waiting, order, islice(ladder, RUNGS_MAX), workload, market)
    while waiting:
        _, order, candidate, ladder = heapq.heappop(waiting)
        result = _judged(candidate, workload, judge, seed)
        if broken(workload, result) is None and result.late_share <= CAUTION * queueing.LATE_MAX:
            return Verdict(option=candidate.option, candidate=candidate, result=result)
        _push(waiting, order, ladder, workload, market)
    return None


def weigh(workload: Workload, market: Market, judge: Judge, *, seed: int) -> list[Verdict]:
    """The best of every option, or why there is none, in the order of the options."""
    return [best_of(option, workload, market, judge, seed=seed) for option in OPTIONS]


def best_of(
    option: Option, workload: Workload, market: Market, judge: Judge, *, seed: int, dearer_than: float = 0.0
) -> Verdict:
    """The cheapest candidate of an option that holds, of those that cost more than ``dearer_than`` a month by the
    formulas; or why there is none."""
    fault = forbidden(option, workload, market)
    if fault is not None:
        return Verdict(option=option, limit=fault[0], reason=fault[1])
    mine = [ladder for name, ladder in ladders(workload, market) if name == option]
    tops = [_climbed(option, ladder, workload, market, judge, seed, dearer_than) for ladder in mine]
    found = [each for each in tops if each is not None]
    holding = [each for each in found if each.holds]
    if holding:
        return min(holding, key=lambda each: each.result.usd_month if each.result is not None else 0.0)
    if found:
        return min(found, key=lambda each: each.result.late_share if each.result is not None else 1.0)
    return Verdict(option=option, limit="size", reason=_too_large(option, workload))


def _climbed(
    option: Option,
    ladder: Iterator[Candidate],
    workload: Workload,
    market: Market,
    judge: Judge,
    seed: int,
    dearer_than: float,
) -> Verdict | None:
    """The first rung that holds, or the last one that was tried and does not."""
    last: Verdict | None = None
    for candidate in islice(ladder, RUNGS_MAX):
        if dearer_than and estimate(candidate, workload, market).usd_month <= dearer_than:
            continue
        result = _judged(candidate, workload, judge, seed)
        fault = broken(workload, result)
        if fault is None and result.late_share > CAUTION * queueing.LATE_MAX:
            continue
        limit, reason = ("", "") if fault is None else fault
        last = Verdict(option=option, candidate=candidate, result=result, limit=limit, reason=reason)
        if fault is None or limit == "freshness":
            break  # However large it is, the learner is the same.
    return last


def ladders(
    workload: Workload, market: Market, *, start: int | None = None, late_max: float = OPTIMISM
) -> Iterator[tuple[Option, Iterator[Candidate]]]:
    """Every way that no limit forbids. Machines begin with room for ``start`` workers, by default for those with which
    no more answers are late than ``late_max``, by the formulas."""
    if queueing.is_too_long(workload.service_s, workload.service_shape, workload.p99_s):
        return
    free = [option for option in OPTIONS if forbidden(option, workload, market) is None]
    needed = start
    if needed is None and any(option not in ("serverless", "hybrid") for option in free):
        needed = queueing.servers_needed(
            workload.traffic, workload.service_s, workload.service_shape, workload.p99_s, late_max
        )
    for option in free:
        if option in ("serverless", "hybrid"):
            yield option, functions(option, workload, market)
        elif needed is not None and option == "one machine":
            yield option, machines(workload, market, needed)
        elif needed is not None:
            yield option, fixed_clusters(option, workload, market, needed)
            if len(set(workload.traffic.rates)) > 1:
                yield option, scaled_clusters(option, workload, market)


def machines(workload: Workload, market: Market, workers: int) -> Iterator[Candidate]:
    """One machine, and the next that has room for more."""
    candidate = options.one_machine(workload, market, workers)
    while candidate is not None:
        yield candidate
        candidate = options.one_machine(workload, market, candidate.workers + 1)


def fixed_clusters(option: Option, workload: Workload, market: Market, workers: int) -> Iterator[Candidate]:
    """A cluster that does not change, and the next that has room for more: "do not scale"."""
    own = market.assumptions
    shapes = list(options.clusters(workload, market, option))
    while shapes and workers <= queueing.SERVERS_MAX:
        # Where the first node has room for all there is nothing that could be spot.
        sizes = [
            options.sized(shape, workload, max(workers, shape.first_room + 1) if shape.is_spot else workers, own)
            for shape in shapes
        ]
        best = min(sizes, key=lambda each: (fixed_usd(each, market), -each.workers))
        yield best
        workers = best.workers + 1


def scaled_clusters(option: Option, workload: Workload, market: Market) -> Iterator[Candidate]:
    """A cluster that follows the load, with ever more room above it."""
    lowest = queueing.servers_needed(
        msgspec.structs.replace(workload.traffic, rates=(min(workload.traffic.rates),)),
        workload.service_s,
        workload.service_shape,
        workload.p99_s,
    )
    if lowest is None:
        return
    shapes = list(options.clusters(workload, market, option))
    peak = workload.traffic.peak_rps * workload.service_s
    # Machines are compared by what the busiest hour takes of them, of which the mean is a like part for all.
    shapes = sorted(
        shapes, key=lambda each: fixed_usd(options.sized(each, workload, int(peak) + 1, market.assumptions), market)
    )[:4]
    found = []
    for target in TARGETS:
        for floor in sorted({min(times * lowest, int(peak / target) + 1) for times in FLOORS}):
            least = max(floor, 2 if workload.survives_machine else 1)
            paid = follow(workload, market.assumptions, target, least)[1]
            sizes = [_least(shape, workload, least, target, market.assumptions) for shape in shapes]
            costs = [(fixed_usd(each, market, float(each.nodes(paid).mean())), each) for each in sizes]
            # Where no node is ever added there is nothing to scale, and nothing that could be spot.
            costs = [each for each in costs if each[1].nodes(paid).max() > each[1].more_nodes]
            found += sorted(costs, key=lambda each: each[0])[:1]
    found.sort(key=lambda each: (each[0], each[1].target, each[1].workers))
    yield from (each for _, each in found)


def _least(shape: Candidate, workload: Workload, workers: int, target: float, own: Assumptions) -> Candidate:
    """The shape at its smallest, scaled from there; as many nodes are spare as the busiest hour needs."""
    smallest = options.sized(shape, workload, 1, own)
    kept = smallest.more_nodes - smallest.spare_nodes if workload.survives_machine else 0
    peak = int(np.ceil(workload.traffic.peak_rps * workload.service_s / target))
    spare = options.sized(shape, workload, peak, own).spare_nodes
    return msgspec.structs.replace(smallest, workers=workers, target=target, more_nodes=kept, spare_nodes=spare)


def functions(option: Option, workload: Workload, market: Market) -> Iterator[Candidate]:
    """Functions, and then with ever more of them kept warm."""
    make = options.function if option == "serverless" else options.hybrid
    first = make(workload, market)
    if first is None:
        return
    yield first
    offered = workload.traffic.peak_rps * options.function_s(first, workload, market.assumptions)
    if workload.service_s > workload.p99_s or market.rate("lambda provisioned concurrency") is None:
        return
    warm, most = max(1, int(offered)), queueing.busiest(offered, 1e6) + 1
    for count in sorted({round(warm + (most - warm) * part / 8) for part in range(9)}):
        candidate = make(workload, market, count)
        if candidate is not None:
            yield candidate


def _judged(candidate: Candidate, workload: Workload, judge: Judge, seed: int) -> Result:
    result = judge(candidate, workload, seed, 1)
    low, high = NEAR
    near = low * queueing.LATE_MAX < result.late_share < high * queueing.LATE_MAX
    if near:
        result = judge(candidate, workload, seed, 4)
    holds = broken(workload, result) is None and result.late_share <= CAUTION * queueing.LATE_MAX
    chancy = candidate.is_spot or len(set(workload.traffic.rates)) > 1
    if not holds or not chancy:
        return result
    late = np.array([judge(candidate, workload, seed + draw * DRAW, 1).late_share for draw in range(1, CONFIRMED + 1)])
    bound = float(late.mean() + ERRORS * late.std(ddof=1) / np.sqrt(CONFIRMED))
    return msgspec.structs.replace(result, late_share=max(result.late_share, bound))


def _push(
    waiting: list[tuple[float, int, Candidate, Iterator[Candidate]]],
    order: int,
    ladder: Iterator[Candidate],
    workload: Workload,
    market: Market,
) -> None:
    """The next rung that the formulas do not rule out for anything but late answers, which are simulated."""
    for candidate in ladder:
        said = estimate(candidate, workload, market)
        if workload.fresh_s is not None and said.fresh_p99_s is not None and said.fresh_p99_s > workload.fresh_s:
            return  # However large it is, the learner is the same.
        if said.late_share > 30.0 * queueing.LATE_MAX:
            continue
        heapq.heappush(waiting, (said.usd_month, order, candidate, ladder))
        return


def _too_large(option: Option, workload: Workload) -> str:
    if queueing.is_too_long(workload.service_s, workload.service_shape, workload.p99_s):
        return "the work alone takes longer than is wanted of 99 answers in 100"
    return "no machine of the price list is large enough" if option == "one machine" else "no machine has room for it"
