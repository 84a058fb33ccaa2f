"""Where the choice becomes another one, by the formulas: with more traffic, longer answers, other prices."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import islice, pairwise
from typing import Literal

import msgspec
import numpy as np

from penstock.control.plan import choose, queueing
from penstock.control.plan.estimate import estimate
from penstock.control.plan.options import OPTIONS, Market, Option
from penstock.control.plan.workload import MONTH_S, Workload

FACTORS = tuple(float(each) for each in np.geomspace(0.01, 100.0, 17))
STEPS = 7
"""Of halving the way between two factors, each 1.8 times the one before: to within half a percent."""

CLEARLY = 1.05
"""What is chosen stays until something else costs a twentieth less: machines come in whole numbers, and the cheapest of
two ways of nearly the same cost goes to and fro."""

Curve = list[tuple[float, dict[Option, float]]]
"""Requests a second, and what each option costs a month at them."""
Moved = Literal["traffic", "duration", "machine prices", "function prices"]
MOVED: tuple[Moved, ...] = ("traffic", "duration", "machine prices", "function prices")


class Flip(msgspec.Struct, frozen=True, kw_only=True):
    """Beyond this factor another option is the cheapest."""

    moved: Moved
    factor: float
    """Of what it is now."""
    becomes: Option | None
    """None where nothing holds any more."""


def costs(workload: Workload, market: Market) -> dict[Option, float]:
    """The cheapest of each option that holds by the formulas, a month; options that do not hold are left out."""
    found: dict[Option, float] = {}
    for option, ladder in choose.ladders(workload, market, late_max=queueing.LATE_MAX):
        for candidate in islice(ladder, choose.RUNGS_MAX):
            said = estimate(candidate, workload, market)
            if said.fresh_p99_s is not None and workload.fresh_s is not None and said.fresh_p99_s > workload.fresh_s:
                break
            if said.late_share <= queueing.LATE_MAX:
                found[option] = min(said.usd_month, found.get(option, np.inf))
                break
    return found


def cheapest(found: dict[Option, float]) -> Option | None:
    """Of these, the one that costs least; of two that cost the same, the simpler one."""
    return min((each for each in OPTIONS if each in found), key=lambda each: found[each], default=None)


def moved(workload: Workload, market: Market, what: Moved, factor: float) -> tuple[Workload, Market]:
    """The same with one thing multiplied."""
    if what == "traffic":
        return workload.scaled(traffic=factor), market
    if what == "duration":
        return workload.scaled(service=factor), market
    return workload, market.priced(**{"machines" if what == "machine prices" else "functions": factor})


def flips(
    workload: Workload, market: Market, now: Option, curve: Curve, without: Collection[Option] = ()
) -> list[Flip]:
    """The nearest flips below and above what is chosen now, for everything that may move, to any option but those in
    ``without``; ``curve`` is that of ``curves``, which is not worked out again."""
    told = {factor: found for factor, (_, found) in zip(FACTORS, curve, strict=True)}
    found = []
    for what in MOVED:

        def option_at(factor: float, what: Moved = what) -> Option | None:
            known = told.get(factor) if what == "traffic" else None
            all_costs = known if known is not None else costs(*moved(workload, market, what, factor))
            found = {option: usd for option, usd in all_costs.items() if option not in without}
            best = cheapest(found)
            stays = best is not None and found.get(now, np.inf) <= CLEARLY * found[best]
            return now if stays else best

        below = [each for each in reversed(FACTORS) if each <= 1.0]
        above = [each for each in FACTORS if each >= 1.0]
        found += [flip for way in (below, above) if (flip := _first(option_at, way, now, what)) is not None]
    return found


def curves(workload: Workload, market: Market) -> Curve:
    """What each option costs over requests a second, for a plot."""
    rps = workload.traffic.mean_rps
    return [(factor * rps, costs(workload.scaled(traffic=factor), market)) for factor in FACTORS]


def _first(option_at: Callable[[float], Option | None], way: list[float], now: Option, what: Moved) -> Flip | None:
    for near, far in pairwise(way):
        other = option_at(far)
        if other == now:
            continue
        for _ in range(STEPS):
            middle = float(np.sqrt(near * far))
            seen = option_at(middle)
            near, far, other = (middle, far, other) if seen == now else (near, middle, seen)
        return Flip(moved=what, factor=far, becomes=other)
    return None


def break_even_rps(fixed_usd_month: float, usd_a_request: float) -> float:
    """The rate at which functions cost as much as machines that are paid for anyway: what the machines cost over what
    a request does. The published rules of so many requests a day are this formula for one duration and one memory."""
    return fixed_usd_month / usd_a_request / MONTH_S
