"""Periods of a budget, and what will have been spent at their end if spending goes on as it does."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Literal

import msgspec

from penstock.control.meter.account import Pace

PeriodName = Literal["day", "month"]
FORECAST_AFTER_S = 600.0
"""Seconds of spending before which a forecast is no more than a guess, and is not made."""


class Period(msgspec.Struct, frozen=True, kw_only=True):
    """A day or a month in UTC, as of some moment in it."""

    name: PeriodName
    key: str
    """As 2026-07-31 or 2026-07: days begin with it."""
    left_s: float
    """Until its end."""
    past_s: float
    """Since its beginning."""


def period_of(name: PeriodName, at: float) -> Period:
    """The one in which this moment lies, in seconds since 1970."""
    moment = datetime.fromtimestamp(at, UTC)
    begin = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    if name == "day":
        end, key = begin + timedelta(days=1), begin.date().isoformat()
    else:
        begin = begin.replace(day=1)
        end, key = (begin + timedelta(days=32)).replace(day=1), f"{begin:%Y-%m}"
    left_s, past_s = (end - moment).total_seconds(), (moment - begin).total_seconds()
    return Period(name=name, key=key, left_s=left_s, past_s=past_s)


def forecast(spent: float, period: Period, pace: Pace) -> float | None:
    """What will have been spent at the end of the period; None while too little is known."""
    if pace.seconds < FORECAST_AFTER_S:
        return None
    return spent + pace.per_s * period.left_s
