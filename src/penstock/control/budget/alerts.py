"""Which alerts are due: each threshold of a limit once in its period, for what was spent and what is forecast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from typing import Literal

import msgspec

from penstock.control.budget.ladder import Standing

Basis = Literal["actual", "forecast", "blind"]


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One alert. Its id is the same whenever the same alert is made again, so that whoever receives it twice knows."""

    id: str
    at: float
    """Seconds since 1970."""
    scope: str
    """The service's name, or ``portfolio``."""
    period: str
    basis: Basis
    percent: float
    limit: float
    amount: float
    """What was spent, or is forecast; the last that is known where nobody knows any more (``blind``)."""
    currency: str
    message: str


def due(
    scope: str, standings: Sequence[Standing], thresholds: Sequence[float], told: Set[str], *, currency: str, at: float
) -> Iterator[Alert]:
    """Those that have not been made yet; ``told`` has the ids of those that have."""
    for standing in standings:
        amounts: tuple[tuple[Basis, float | None], ...] = (("actual", standing.spent), ("forecast", standing.forecast))
        for basis, amount in amounts:
            for threshold in sorted(thresholds):
                if amount is None or amount < threshold * standing.limit:
                    continue
                alert_id = f"{scope}/{standing.key}/{threshold:.6g}/{standing.limit:.6g}/{basis}"
                if alert_id in told:
                    continue
                verb = "have been spent" if basis == "actual" else "are forecast"
                yield Alert(
                    id=alert_id,
                    at=at,
                    scope=scope,
                    period=standing.key,
                    basis=basis,
                    percent=round(100 * threshold, 6),
                    limit=standing.limit,
                    amount=amount,
                    currency=currency,
                    message=f"{scope}: {amount:.6g} {currency} {verb} of {standing.limit:.6g} for the "
                    f"{standing.period} {standing.key} ({threshold:.0%} reached)",
                )


def blind(
    scope: str, standing: Standing, since: float, why: str, told: Set[str], *, currency: str, at: float
) -> Iterator[Alert]:
    """That nobody knows what is spent, once each time that this begins; ``since`` is when it was known last."""
    alert_id = f"{scope}/{since:.0f}/blind"
    if alert_id not in told:
        yield Alert(
            id=alert_id,
            at=at,
            scope=scope,
            period=standing.key,
            basis="blind",
            # Of nothing everything is spent, and a file of alerts has no infinite numbers.
            percent=round(100 * standing.share, 6) if standing.limit else 100.0,
            limit=standing.limit,
            amount=standing.spent,
            currency=currency,
            message=f"{scope}: learning is paused, since {why}",
        )
