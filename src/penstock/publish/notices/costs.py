"""What a second of learning cost on each day, as whoever watches the money writes it into a service's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from penstock.publish.notices.notice import put_up

DAYS_KEPT = 400


class Costs(msgspec.Struct, frozen=True, kw_only=True):
    """What ``costs.json`` says."""

    currency: str = "USD"
    learner: dict[str, float] = {}
    """Of each day in UTC, what a second of the learner's processor time cost with all that goes with it."""
    consolidator: dict[str, float] = {}
    """The same of trainings; a day without one is not there."""


def read_costs(folder: Path) -> Costs:
    """What stands in a service's folder; nothing where nobody has counted, or what is there cannot be read."""
    try:
        return msgspec.json.decode((folder / "costs.json").read_bytes(), type=Costs)
    except (OSError, msgspec.MsgspecError):
        return Costs()


def write_costs(folder: Path, costs: Costs) -> None:
    """Say it; the ledger has it for good."""
    put_up(folder / "costs.json", costs)


def newest(prices: Mapping[str, float]) -> dict[str, float]:
    """Those of the newest days that are kept."""
    return dict(sorted(prices.items())[-DAYS_KEPT:])
