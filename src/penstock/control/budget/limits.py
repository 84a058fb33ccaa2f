"""What may be spent as of now: what the file says, what was set since, and what somebody allows for a while."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

PORTFOLIO = "portfolio"
"""Stands for all services together; no service may have this name."""

AMOUNT_MAX = 1e15
"""More is no amount of any currency; infinity, which YAML has a word for, is none either."""
Amount = Annotated[float, Meta(ge=0, le=AMOUNT_MAX)]


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody has changed a budget. What is None is left as it is."""

    id: str
    at: float
    """Seconds since 1970."""
    scope: str
    per_day: Amount | None = None
    per_month: Amount | None = None
    until: float | None = None
    """When it ends; None where it lasts until the next one."""
    is_reset: bool = False
    """Whether everything that was set or allowed before ends instead: the file counts again."""
    by: Annotated[str, Meta(min_length=1, max_length=200)]
    reason: Annotated[str, Meta(max_length=2000)] = ""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits in force; None where there is none."""

    per_day: float | None
    per_month: float | None


def in_force(scope: str, file: Limits, changes: Iterable[Change], now: float) -> Limits:
    """The limits of this scope at this time: the newest change that says something and has not ended counts. Those that
    end come before those that last, whichever came later: somebody who allows more for an hour means that hour."""
    mine = current(scope, changes, now)
    return Limits(
        per_day=_newest([each.per_day for each in mine], file.per_day),
        per_month=_newest([each.per_month for each in mine], file.per_month),
    )


def current(scope: str, changes: Iterable[Change], now: float) -> list[Change]:
    """The changes of this scope that count now, those that count most last. They are given in their order."""
    mine: list[Change] = []
    for each in changes:
        if each.scope == scope:
            mine = [] if each.is_reset else [*mine, each]
    mine = [each for each in mine if each.until is None or now < each.until]
    return sorted(mine, key=lambda each: each.until is not None)


def _newest(said: Sequence[float | None], otherwise: float | None) -> float | None:
    return next((value for value in reversed(said) if value is not None), otherwise)
