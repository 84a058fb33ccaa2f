"""The ladder: how far learning is held back by what was spent, in steps that can each be taken back.

Up at once, as far as it takes: money that is spent does not come back. Down one rung at a look, and only when spending
is clearly below the rung, so that nothing swings.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.control.meter.forecast import PeriodName
from penstock.publish.notices.allowance import HEIGHT, RUNGS, Rung

BEGINS: dict[Rung, float] = {
    "alert": 0.5,
    "slow_consolidation": 0.7,
    "pause_consolidation": 0.8,
    "learn_less": 0.9,
    "pause_learning": 0.95,
    "serving_floor": 1.0,
    "stop": 1.0,
}
"""The share of a limit with which each rung begins. The last twentieth is kept for predictions."""
FORECAST_RUNG: Rung = "slow_consolidation"
"""What a forecast beyond the limit does at most: it may be wrong, and what was spent is not."""
BLIND_RUNG: Rung = "pause_learning"
"""What is done at least while nobody knows what is spent: predictions go on, and nothing that can wait does."""
CLEARLY = 0.02
"""Of the limit, by which spending is below a rung before it is left."""


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One limit, and how near to it spending is."""

    period: PeriodName
    key: str
    """As 2026-07-31, or 2026-07."""
    limit: float
    spent: float
    ahead: float = 0.0
    """What will be spent before a decision of now has taken effect, and what likely was since it was counted last."""
    per_s: float = 0.0
    """How fast it is spent."""
    forecast: float | None = None

    @property
    def share(self) -> float:
        """Of the limit, with what cannot be helped any more."""
        return _share(self.spent + self.ahead, self.limit)

    @property
    def forecast_share(self) -> float:
        return 0.0 if self.forecast is None else _share(self.forecast, self.limit)


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """A rung, and why."""

    rung: Rung
    why: str


def decide(rung: Rung, standings: Sequence[Standing], *, may_stop: bool, blind: str = "") -> Decision:
    """The rung that follows this one. Where there is no limit, nothing is held back. ``may_stop``: whether predictions
    are to end with the money; otherwise they never do. ``blind`` says why nobody knows what is spent."""
    wanted, why = _highest(standings, 0.0, may_stop)
    if blind and standings and HEIGHT[wanted] < HEIGHT[BLIND_RUNG]:
        wanted, why = BLIND_RUNG, blind
    if HEIGHT[wanted] >= HEIGHT[rung]:
        return Decision(rung=wanted, why=why)
    stays, why_stays = _highest(standings, CLEARLY, may_stop)
    lower = RUNGS[max(HEIGHT[rung] - 1, HEIGHT[wanted])]
    if HEIGHT[stays] >= HEIGHT[rung]:
        return Decision(rung=rung, why=why_stays)
    return Decision(rung=lower, why=why or "nothing is near a limit any more")


def _highest(standings: Sequence[Standing], margin: float, may_stop: bool) -> tuple[Rung, str]:
    """The highest rung that any of the limits asks for, each of which begins this much sooner."""
    found: tuple[Rung, str] = ("free", "")
    for standing in standings:
        for rung, begins in BEGINS.items():
            by_spending = standing.share >= begins - margin
            by_forecast = HEIGHT[rung] <= HEIGHT[FORECAST_RUNG] and standing.forecast_share >= 1.0 - margin
            allowed = rung != "stop" or may_stop
            if allowed and (by_spending or by_forecast) and HEIGHT[rung] > HEIGHT[found[0]]:
                found = rung, _told(standing, by_spending=by_spending)
    return found


def _told(standing: Standing, *, by_spending: bool) -> str:
    of = f"of {standing.limit:.6g} for the {standing.period} {standing.key}"
    if by_spending:
        soon = f" and {standing.ahead:.6g} about to be" if standing.ahead else ""
        return f"{standing.spent:.6g} {of} are spent{soon} ({standing.share:.1%})"
    return f"{standing.forecast:.6g} {of} are forecast ({standing.forecast_share:.1%})"


def _share(amount: float, limit: float) -> float:
    if limit > 0.0:
        return amount / limit
    # With nothing to spend, everything is too much.
    return float("inf")
