"""Weighs all options for a service, rehearses the best, and tells it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from penstock.cli.planning.measured import Measured
from penstock.cli.show import Column
from penstock.control.plan import choose
from penstock.control.plan.flips import Curve, Flip, curves, flips
from penstock.control.plan.limits import broken, seconds
from penstock.control.plan.options import Candidate, Market, Option
from penstock.control.plan.rehearse import Rehearsal, rehearse
from penstock.control.plan.result import Result
from penstock.control.plan.trial import REQUESTS, trial
from penstock.control.plan.workload import Floats, Workload

DRAWS = 5
"""Simulations whose lowest and highest cost are the interval."""
REHEARSALS_MAX = 8
"""Sizes that are rehearsed, of all options together, until one holds; then an option is given up when its first does
not."""
LEVEL = 1.01
"""What costs a hundredth more is as cheap, and the simpler one is taken."""

BURDENS: dict[Option, tuple[int, str]] = {
    "one machine": (1, "one machine to patch; predictions stop while it restarts"),
    "serverless": (1, "versions of a function"),
    "kubernetes": (3, "a cluster to upgrade, its nodes, its autoscalers"),
    "hybrid": (4, "a cluster to upgrade, its node, functions, weights in an object store"),
    "kubernetes spot": (4, "a cluster to upgrade, its nodes, its autoscalers, nodes that are taken"),
    "kubernetes gpu": (4, "a cluster to upgrade, its nodes, its autoscalers, drivers and device plugins"),
}
"""Kinds of things to look after, and which: a count, so that one can see it, and no price."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One option."""

    option: Option
    cloud: str = ""
    made_of: str = ""
    usd_month: float | None = None
    usd_low: float | None = None
    usd_high: float | None = None
    p50_s: float | None = None
    p99_s: float | None = None
    fresh_p99_s: float | None = None
    cold_starts_month: float | None = None
    scales: bool = False
    workers: float | None = None
    burden: int
    burden_of: str
    limit: str = ""
    verdict: str
    chosen: bool = False


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is told."""

    service: str
    workload: Workload
    measured: Measured
    currency: str
    lines: list[Line]
    chosen: Option | None
    rehearsal: Rehearsal | None
    flips: list[Flip]
    curves: Curve
    seed: int

    def plain(self) -> dict[str, Any]:
        """As plain values."""
        found: dict[str, Any] = msgspec.to_builtins(self)
        return found


def report(
    workload: Workload, market: Market, measured: Measured, service: str, *, times: Floats | None, seed: int
) -> Plan:
    """Weigh, rehearse and look for flips."""

    def judge(candidate: Candidate, each: Workload, seed: int, times: int) -> Result:
        return trial(candidate, each, market, seed=seed, requests=times * REQUESTS)

    verdicts = choose.weigh(workload, market, judge, seed=seed)
    lines = [_line(each, workload, market, seed) for each in verdicts]
    rehearsal: Rehearsal | None = None
    tried = 0
    while (taken := _cheapest(lines)) is not None:
        at = lines.index(taken)
        candidate = verdicts[at].candidate
        assert candidate is not None
        rehearsal = None
        if candidate.function_mib:
            break
        rehearsal, tried = rehearse(candidate, workload, market, seed=seed, arrivals=times), tried + 1
        if not rehearsal.requests:
            # So seldom is anything asked that a day had none: that says nothing for it, and nothing against it.
            rehearsal = None
            break
        if rehearsal.holds is not False:
            break
        if tried < REHEARSALS_MAX:
            # The next larger one of its kind, which is weighed with the others again.
            usd = taken.usd_month or 0.0
            verdicts[at] = choose.best_of(taken.option, workload, market, judge, seed=seed, dearer_than=usd)
            lines[at] = _line(verdicts[at], workload, market, seed)
        if tried >= REHEARSALS_MAX or not verdicts[at].holds:
            lines[at] = _failed(taken, rehearsal, workload)
    if taken is not None:
        lines[lines.index(taken)] = msgspec.structs.replace(taken, chosen=True, verdict=_why(taken, lines))
    curve = curves(workload, market)
    return Plan(
        service=service,
        workload=workload,
        measured=measured,
        currency=market.catalogue.currency,
        lines=lines,
        chosen=None if taken is None else taken.option,
        rehearsal=rehearsal,
        flips=[] if taken is None else flips(workload, market, taken.option, curve, _unfit(lines)),
        curves=curve,
        seed=seed,
    )


def _unfit(lines: Sequence[Line]) -> set[Option]:
    """Options that the formulas believe in and the rehearsal does not."""
    return {each.option for each in lines if each.limit == "rehearsal"}


def _line(verdict: choose.Verdict, workload: Workload, market: Market, seed: int) -> Line:
    count, kinds = BURDENS[verdict.option]
    candidate, result = verdict.candidate, verdict.result
    bare = Line(
        option=verdict.option, burden=count, burden_of=kinds, limit=verdict.limit, verdict=verdict.reason or "holds"
    )
    if candidate is None or result is None:
        return bare
    draws = [result] + [trial(candidate, workload, market, seed=seed + draw) for draw in range(1, DRAWS)]
    late = float(np.median([each.late_share for each in draws]))
    fault = broken(workload, msgspec.structs.replace(result, late_share=min(result.late_share, late)))
    return msgspec.structs.replace(
        bare,
        cloud=candidate.cloud,
        made_of=candidate.words(),
        usd_month=result.usd_month,
        usd_low=min(each.usd_month for each in draws),
        usd_high=max(each.usd_month for each in draws),
        p50_s=result.p50_s,
        p99_s=result.p99_s,
        fresh_p99_s=result.fresh_p99_s,
        cold_starts_month=result.cold_starts_month if candidate.function_mib else None,
        scales=candidate.scales,
        workers=result.workers_mean,
        limit="" if fault is None else fault[0],
        verdict="holds" if fault is None else fault[1],
    )


def _cheapest(lines: Sequence[Line]) -> Line | None:
    """Of what holds, what costs least; of what costs the same, what is least to look after."""
    holding = [each for each in lines if not each.limit and each.usd_month is not None]
    least = min((each.usd_month or 0.0 for each in holding), default=0.0)
    near = [each for each in holding if (each.usd_month or 0.0) <= LEVEL * least]
    return min(near, key=lambda each: (each.burden, each.usd_month), default=None)


def _failed(line: Line, rehearsal: Rehearsal, workload: Workload) -> Line:
    said = f"on a whole cluster 99 of 100 answers take {seconds(rehearsal.p99_s)}"
    if rehearsal.p99_s <= workload.p99_s and rehearsal.fresh_p99_s is not None:
        said = f"on a whole cluster events are seen after {seconds(rehearsal.fresh_p99_s)}"
    return msgspec.structs.replace(line, limit="rehearsal", verdict=said)


def _why(taken: Line, lines: Sequence[Line]) -> str:
    others = [each.usd_month for each in lines if not each.limit and each is not taken and each.usd_month is not None]
    if not others:
        return "the only one that holds"
    share = min(others) / max(taken.usd_month or 0.0, 1e-9) - 1.0
    return f"the next one costs {share:.0%} more" if share > 0.0 else "as cheap as any, and less to look after"


def columns(currency: str) -> list[Column]:
    """Of the table."""
    return [
        ("mark", ""),
        ("option", "OPTION"),
        ("made_of", "MADE OF"),
        ("usd", f"{currency} A MONTH"),
        ("p50", "P50"),
        ("p99", "P99"),
        ("fresh", "FRESH"),
        ("cold", "COLD A MONTH"),
        ("burden", "TO LOOK AFTER"),
        ("verdict", "VERDICT"),
    ]


def rows(plan: Plan) -> list[dict[str, Any]]:
    """The table."""
    found = []
    for each in plan.lines:
        interval = ""
        if each.usd_low is not None and each.usd_high is not None and f"{each.usd_low:,.0f}" != f"{each.usd_high:,.0f}":
            interval = f" ({each.usd_low:,.0f} to {each.usd_high:,.0f})"
        found.append(
            {
                "mark": "✔" if each.chosen else "✘" if each.limit else " ",
                "option": each.option,
                "made_of": each.made_of or "-",
                "usd": "-" if each.usd_month is None else f"{each.usd_month:,.2f}{interval}",
                "p50": _time(each.p50_s),
                "p99": _time(each.p99_s),
                "fresh": _time(each.fresh_p99_s),
                "cold": "-" if each.cold_starts_month is None else f"{each.cold_starts_month:,.0f}",
                "burden": f"{each.burden}",
                "verdict": f"{each.limit}: {each.verdict}" if each.limit else each.verdict,
            }
        )
    return found


def words(plan: Plan, file: Path) -> list[str]:
    """What the table does not say."""
    said = ["", _load(plan)]
    chosen = next((each for each in plan.lines if each.chosen), None)
    if chosen is None:
        return [*said, "Nothing holds what is wanted. Ask for less, or see which limit each option breaks."]
    if not chosen.cold_starts_month and chosen.option != "serverless":
        changes = len(set(plan.workload.traffic.rates)) > 1
        if chosen.scales:
            said.append(f"Scale: {chosen.workers or 0:.1f} workers on average follow the load.")
        elif changes:
            said.append("Do not scale: machines for the busiest hour cost less than following the load, or as much.")
    if plan.rehearsal is not None:
        said.append(_rehearsed(plan.rehearsal))
    said += [f"{_flip(each, plan)}" for each in plan.flips]
    said += ["", *_next(chosen, file)]
    return said


def _load(plan: Plan) -> str:
    load, own = plan.workload, plan.measured
    learning = f", {own.learn_s * 1e6:,.0f} µs an event" if load.learns else ""
    return (
        f"{_count(load.traffic.mean_rps)} predictions a second on average and {_count(load.traffic.peak_rps)} at most; "
        f"{seconds(load.service_s)} of a core each{learning}, {own.server_mib:,.0f} MiB a server ({own.where})."
    )


def _rehearsed(found: Rehearsal) -> str:
    cost = "" if found.usd_month is None else f", {found.usd_month:,.2f} a month"
    part = "" if found.usd_month is not None else " (the busiest part)"
    taken = f", {found.reclaimed} spot nodes taken" if found.reclaimed else ""
    return (
        f"Rehearsed on a whole cluster for {found.hours:,.3g} h{part}, {found.requests:,} requests: p99 "
        f"{seconds(found.p99_s)}{cost}{taken}."
    )


def _flip(flip: Flip, plan: Plan) -> str:
    becomes = "nothing holds" if flip.becomes is None else flip.becomes
    way = "above" if flip.factor > 1.0 else "below"
    match flip.moved:
        case "traffic":
            return f"Traffic {way} {_count(flip.factor * plan.workload.traffic.mean_rps)} a second: {becomes}."
        case "duration":
            return f"Predictions that take {way} {seconds(flip.factor * plan.workload.service_s)}: {becomes}."
    return f"{flip.moved.capitalize()} {way} {flip.factor:,.3g} times these: {becomes}."


def _next(chosen: Line, file: Path) -> list[str]:
    if chosen.option == "one machine":
        workers = max(1, round(chosen.workers or 1))
        return ["Next:", f"  penstock up {shlex.quote(str(file))} --data data --workers {workers}"]
    said = ["Penstock writes no files for clusters and functions yet. Next, the same service on one machine:"]
    if chosen.option.startswith("kubernetes"):
        said = [
            "Of a cluster Penstock writes what scales it: penstock autoscale, with the same --rps or --traffic.",
            "Next, the same service on one machine:",
        ]
    return [*said, f"  penstock up {shlex.quote(str(file))} --data data"]


def _count(value: float) -> str:
    return f"{value:,.0f}" if value >= 100.0 else f"{value:,.3g}"


def _time(value: float | None) -> str:
    return "-" if value is None else seconds(value)
