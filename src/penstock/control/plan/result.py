"""What a candidate costs and gives, by the formulas or by a simulation."""

from __future__ import annotations

import msgspec


class Estimate(msgspec.Struct, frozen=True, kw_only=True):
    """Of one candidate under one workload, by the formulas."""

    usd_month: float
    late_share: float
    """Of answers that take longer than is wanted."""
    fresh_p99_s: float | None
    """Within which 99 of 100 events are in the predictions; None where nothing is learned."""
    cold_starts_month: float = 0.0
    workers_mean: float = 0.0


class Result(Estimate, frozen=True, kw_only=True):
    """The same by a simulation."""

    p50_s: float
    p99_s: float
