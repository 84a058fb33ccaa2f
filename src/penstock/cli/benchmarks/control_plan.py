"""The chooser of `penstock plan` beside an exhaustive simulation, and beside rules that are published.

For each of some six thousand workloads every way to run it is simulated in every size, from the smallest that could
keep up, on requests that the chooser has not seen; the cheapest that holds what is wanted is the best there is. What
the chooser took is simulated on the same requests, where it must hold, too; what it costs more is its regret."""

from __future__ import annotations

import itertools
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

import msgspec
import numpy as np

from penstock.control.plan import choose, flips, workload
from penstock.control.plan.limits import broken, forbidden
from penstock.control.plan.options import Assumptions, Candidate, Market, Option, fixed_usd, request_usd
from penstock.control.plan.rehearse import Rehearsal, rehearse
from penstock.control.plan.result import Result
from penstock.control.plan.trial import REQUESTS, trial
from penstock.control.plan.workload import DAY_S, HOURS_A_MONTH, Device, Traffic, Workload
from penstock.control.prices.catalogue import builtin

CORES_MAX = 48.0
"""Workloads that keep more cores busy on average are left out: they only repeat the large ones, slowly."""
DEVICES: tuple[Device, ...] = ("none", "learning", "serving")
DEVICES_MAX = 12.0
"""The same for GPUs."""
REFERENCE = 2 * REQUESTS
CHECKED = 16 * REQUESTS
"""Requests on which it is looked whether what was chosen breaks a limit: in the reference bursts come a few times."""
VIOLATED_MAX = 20
"""Choices that break a limit of which the report says more than their number."""
REHEARSED, REHEARSED_MAX = 60, 60_000
"""Choices that are simulated on whole clusters, each for a day of at most so many requests."""
PUBLISHED = ((0.5, 0.05), (1.0, 0.1), (2.0, 0.2), (3.0, 1.0), (10.0, 2.0))
"""Memory in GiB and duration in seconds of functions for which a break-even is told."""
BREAK_EVEN_OFF_MAX = 0.05
REGRET_P50_MAX, REGRET_P95_MAX = 0.05, 0.10
RULES = {"0.5 M requests a day": 0.5e6, "1 M requests a day": 1e6, "2 M requests a day": 2e6, "3 M requests a day": 3e6}
"""Published: functions below, a cluster above (cloudreflex: 0.5 to 1 M; c3x.dev: 2 to 3 M)."""


class Rival(msgspec.Struct, frozen=True, kw_only=True):
    """What always doing the same would give."""

    name: str
    holds: float
    """The share of workloads in which it holds what is wanted."""
    dearer_p50: float
    """What it costs more than the chooser where it holds, as a ratio less one."""
    dearer_mean: float


class BreakEven(msgspec.Struct, frozen=True, kw_only=True):
    """Where functions cost as much as a cluster of a given size."""

    gb_s: str
    """Memory and duration of a prediction."""
    cluster: str
    formula_m_a_day: float
    """Millions of requests a day, by the closed form: the cluster's cost over that of a request."""
    simulated_m_a_day: float
    off: float
    """Relative to the formula."""


class Rehearsed(msgspec.Struct, frozen=True, kw_only=True):
    """The quick simulation of what was chosen, beside the whole cluster with both autoscalers."""

    workloads: int
    p99_off_p50: float
    """The 99th percentile of the whole cluster against the quick one, relative: the median, and the largest."""
    p99_off_max: float
    usd_off_p50: float
    usd_off_max: float
    holds: int


class Choosing(msgspec.Struct, frozen=True, kw_only=True):
    """The chooser over the whole grid."""

    workloads: int
    possible: int
    """Those that anything holds."""
    violations: int
    """Choices that break a hard limit, on requests that they were not made on."""
    violated: list[str]
    """The first of them: which workload of the grid, what was chosen, and what it breaks."""
    none_found: int
    """Workloads for which nothing was chosen, though something holds."""
    regret_p50: float
    regret_p95: float
    regret_max: float
    chosen: dict[str, int]
    unscaled: int
    """Choices of machines that say: do not scale, though the traffic changes."""
    rivals: list[Rival]
    break_evens: list[BreakEven]
    rehearsed: Rehearsed

    @property
    def holds(self) -> bool:
        """Whether every bound is kept."""
        return (
            self.violations == 0
            and self.none_found == 0
            and self.regret_p50 <= REGRET_P50_MAX
            and self.regret_p95 <= REGRET_P95_MAX
            and all(abs(each.off) <= BREAK_EVEN_OFF_MAX for each in self.break_evens)
        )


def grid() -> list[Workload]:
    """Workloads from a request in a minute to thousands a second, of every kind that changes what can be chosen."""
    found = []
    for rps, service_s, shape, mib, learns, device, relaxed, fresh_s, survives in itertools.product(
        (0.02, 0.3, 2.0, 12.0, 60.0, 300.0, 1500.0),
        (0.004, 0.03, 0.2, 1.2),
        ("steady", "daily", "bursts"),
        (256.0, 3000.0),
        (False, True),
        DEVICES,
        (6.0, 20.0, 80.0),
        (None, 5.0),
        (False, True),
    ):
        if rps * service_s > (DEVICES_MAX if device == "serving" else CORES_MAX) or (
            not learns and (fresh_s is not None or device == "learning")
        ):
            continue
        if shape != "daily" and device == "learning" and relaxed == 20.0:
            continue  # A thinner sample where the numbers differ least.
        found.append(
            Workload(
                traffic=_traffic(shape, rps),
                service_s=service_s,
                service_shape=2.0,
                server_mib=mib,
                start_s=1.0 + mib / 1000.0,
                image_mib=800.0 if mib < 1000.0 else 12_000.0 if survives else 6_000.0,
                learns=learns,
                learn_s=2e-4 if learns else 0.0,
                learner_mib=2.0 * mib,
                training_s=300.0 if learns else 0.0,
                device=device,
                p99_s=relaxed * service_s,
                fresh_s=fresh_s,
                survives_machine=survives,
            )
        )
    return found


@cache
def _market() -> Market:
    """The price list that comes with Penstock; it remembers which machines are worth a look."""
    return Market(builtin(), Assumptions())


class Mapped(Protocol):
    """``map`` over one argument, in whatever processes."""

    def __call__(self, function: Callable[[Any], Any], each: Iterable[Any], /) -> Iterator[Any]:
        """Results in the order of the arguments."""


@contextmanager
def _mapped(jobs: int) -> Iterator[Mapped]:
    if jobs == 1:
        yield map
        return
    # New processes instead of forks: compiled loops may have started threads.
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda function, each: pool.map(function, each, chunksize=4)


def measure(note: Callable[[str], None], *, every: int = 1, jobs: int = 1) -> Choosing:
    """Choose for every workload of the grid, or for one in ``every``, and compare; the same in any number of
    processes, since each workload has a seed of its own."""
    workloads = grid()[::every]
    outcomes: list[Outcome] = []
    with _mapped(jobs) as mapped:
        for outcome in mapped(_numbered, enumerate(workloads, start=1)):
            outcomes.append(outcome)
            if len(outcomes) % 500 == 0:
                note(f"plan: {len(outcomes):,} of {len(workloads):,} workloads")
        note("plan: break-even")
        evens = [break_even(_market(), *each, nodes) for each in PUBLISHED for nodes in (1, 2)]
        note("plan: whole clusters")
        whole = rehearsed(workloads, outcomes, mapped)
    return summed(outcomes, evens, whole)


def _numbered(numbered: tuple[int, Workload]) -> Outcome:
    number, each = numbered
    return compare(each, _market(), seed=number)


def break_even(market: Market, gib: float, took_s: float, nodes: int) -> BreakEven:
    """Functions of this size against this many m7i.xlarge, two of them with a cluster's fee: what published rules
    compare. The bill of the functions is simulated, cold starts included, and the rate found at which it is equal."""
    machine = market.catalogue.instance("m7i.xlarge")
    assert machine is not None
    fee = market.fee("aws") or 0.0
    fixed = HOURS_A_MONTH * (nodes * machine.price + (fee if nodes > 1 else 0.0))
    candidate = Candidate(option="serverless", cloud="aws", function_mib=round(gib * 1024))
    # A function of less memory has less than a core: what is published is how long a call takes with that much.
    core_s = took_s * min(1.0, candidate.function_mib / market.assumptions.function_core_mib)

    def usd(rps: float) -> float:
        each = Workload(traffic=workload.steady(rps), service_s=core_s, service_shape=4.0, learns=False, p99_s=60.0)
        return trial(candidate, each, market, seed=1).usd_month

    formula = flips.break_even_rps(fixed, request_usd(candidate, market, took_s))
    low, high = formula / 4.0, formula * 4.0
    for _ in range(24):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if usd(middle) < fixed else (low, middle)
    return BreakEven(
        gb_s=f"{gib:g} × {took_s:g}",
        cluster="1 node" if nodes == 1 else f"{nodes} nodes and EKS",
        formula_m_a_day=formula * DAY_S / 1e6,
        simulated_m_a_day=high * DAY_S / 1e6,
        off=high / formula - 1.0,
    )


def rehearsed(workloads: Sequence[Workload], outcomes: Sequence[Outcome], mapped: Mapped) -> Rehearsed:
    """Some of the choices, of every kind that is no function, on whole clusters."""
    picked = [
        (number, each, outcome.candidate)
        for number, (each, outcome) in enumerate(zip(workloads, outcomes, strict=True))
        if outcome.candidate is not None
        and not outcome.candidate.function_mib
        and each.traffic.mean_rps * max(DAY_S, each.traffic.period_s) <= REHEARSED_MAX
    ]
    step = max(1, len(picked) // REHEARSED)
    p99, usd, holds = [], [], 0
    for quick, whole in mapped(_both, picked[::step][:REHEARSED]):
        p99.append(abs(whole.p99_s / quick.p99_s - 1.0))
        usd.append(abs((whole.usd_month or np.inf) / quick.usd_month - 1.0))
        holds += bool(whole.holds)
    return Rehearsed(
        workloads=len(p99),
        p99_off_p50=float(np.median(p99)) if p99 else np.nan,
        p99_off_max=max(p99, default=np.nan),
        usd_off_p50=float(np.median(usd)) if usd else np.nan,
        usd_off_max=max(usd, default=np.nan),
        holds=holds,
    )


def _both(picked: tuple[int, Workload, Candidate]) -> tuple[Result, Rehearsal]:
    number, each, candidate = picked
    return trial(candidate, each, _market(), seed=number), rehearse(candidate, each, _market(), seed=number)


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One workload: what was chosen, and what else there was, with what each costs on the same requests."""

    option: Option | None
    candidate: Candidate | None
    usd: float
    violates: str
    """What the choice breaks, in words; empty where it holds."""
    best_usd: float
    changes: bool
    """Whether the traffic does."""
    scales: bool
    rivals: dict[str, float | None]
    """The cost of each rival, or None where it does not hold."""


def compare(each: Workload, market: Market, *, seed: int) -> Outcome:
    """Choose on one draw of requests, and compare on another."""

    def judge(candidate: Candidate, each: Workload, seed: int, times: int) -> Result:
        return trial(candidate, each, market, seed=seed, requests=times * REQUESTS)

    choice = choose.choose(each, market, judge, seed=2 * seed)
    reference = Reference(each, market, seed=2 * seed + 1)
    best = {option: reference.best(option) for option in dict.fromkeys(o for o, _ in choose.ladders(each, market))}
    cheapest = min((usd for usd in best.values() if usd is not None), default=np.inf)
    cluster = min((usd for o in ("kubernetes", "kubernetes gpu") if (usd := best.get(o)) is not None), default=None)
    rivals: dict[str, float | None] = {"always a cluster": cluster, "always functions": best.get("serverless")}
    for name, bound in RULES.items():
        a_day = each.traffic.mean_rps * DAY_S
        rivals[name] = rivals["always functions" if a_day < bound else "always a cluster"]
    if choice is None or choice.candidate is None:
        return Outcome(
            option=None,
            candidate=None,
            usd=np.inf,
            violates="",
            best_usd=cheapest,
            changes=False,
            scales=False,
            rivals=rivals,
        )
    result = reference.result(choice.candidate)
    checked = trial(choice.candidate, each, market, seed=2 * seed + 1, requests=CHECKED)
    fault = forbidden(choice.option, each, market) or broken(each, checked)
    return Outcome(
        option=choice.option,
        candidate=choice.candidate,
        usd=result.usd_month,
        violates="" if fault is None else f"workload {seed:,}, {choice.option}: {fault[1]}",
        best_usd=min(cheapest, result.usd_month),
        changes=len(set(each.traffic.rates)) > 1,
        scales=choice.candidate.scales,
        rivals=rivals,
    )


class Reference:
    """Everything that could be, simulated on one draw of requests."""

    def __init__(self, each: Workload, market: Market, *, seed: int) -> None:
        self.each, self.market, self.seed = each, market, seed
        self._seen: dict[tuple[int, float | None, int], Result] = {}

    def result(self, candidate: Candidate) -> Result:
        """Simulate. Answers do not depend on what the machines are: one draw is for all with as many workers."""
        if candidate.function_mib or candidate.is_spot or candidate.scales:
            return trial(candidate, self.each, self.market, seed=self.seed, requests=REFERENCE)
        key = (candidate.workers, candidate.target, candidate.spare_nodes)
        if key not in self._seen:
            self._seen[key] = trial(candidate, self.each, self.market, seed=self.seed, requests=REFERENCE)
        return msgspec.structs.replace(self._seen[key], usd_month=fixed_usd(candidate, self.market))

    def best(self, option: Option) -> float | None:
        """The cheapest of an option that holds, from the smallest that could keep up."""
        found = [usd for ladder in self._ladders(option) if (usd := self._climb(ladder)) is not None]
        return min(found, default=None)

    def _ladders(self, option: Option) -> Iterator[Iterator[Candidate]]:
        smallest = int(self.each.traffic.mean_rps * self.each.service_s) + 1
        return (ladder for name, ladder in choose.ladders(self.each, self.market, start=smallest) if name == option)

    def _climb(self, ladder: Iterator[Candidate]) -> float | None:
        """The first rung that holds: those after it cost more."""
        for candidate in ladder:
            result = self.result(candidate)
            fault = broken(self.each, result)
            if fault is None:
                return result.usd_month
            if fault[0] == "freshness":
                return None  # However large it is, the learner is the same.
        return None


def summed(outcomes: Sequence[Outcome], evens: list[BreakEven], whole: Rehearsed) -> Choosing:
    """The figures of the whole grid."""
    possible = [each for each in outcomes if np.isfinite(each.best_usd)]
    taken = [each for each in possible if each.option is not None]
    regrets = np.array([each.usd / each.best_usd - 1.0 for each in taken if not each.violates])
    p50, p95 = np.quantile(regrets, [0.5, 0.95]) if len(regrets) else (np.nan, np.nan)
    options = [each.option for each in taken]
    names = list(taken[0].rivals) if taken else []
    violated = [each.violates for each in taken if each.violates]
    return Choosing(
        workloads=len(outcomes),
        possible=len(possible),
        violations=len(violated),
        violated=violated[:VIOLATED_MAX],
        none_found=sum(each.option is None for each in possible),
        regret_p50=float(p50),
        regret_p95=float(p95),
        regret_max=float(regrets.max(initial=0.0)),
        chosen={str(option): options.count(option) for option in dict.fromkeys(options)},
        unscaled=sum(
            each.changes and not each.scales and each.option not in ("serverless", "hybrid") for each in taken
        ),
        rivals=[_rival(name, taken) for name in names],
        break_evens=evens,
        rehearsed=whole,
    )


def _rival(name: str, taken: Sequence[Outcome]) -> Rival:
    ratios = [usd / each.usd - 1.0 for each in taken if (usd := each.rivals[name]) is not None]
    return Rival(
        name=name,
        holds=len(ratios) / len(taken),
        dearer_p50=float(np.median(ratios)) if ratios else np.nan,
        dearer_mean=float(np.mean(ratios)) if ratios else np.nan,
    )


def _traffic(shape: str, rps: float) -> Traffic:
    if shape == "steady":
        return workload.steady(rps)
    return workload.daily(rps, step_s=900.0) if shape == "daily" else workload.bursts(rps)
