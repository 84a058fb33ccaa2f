"""What the parts of the autoscaler tell one another."""

from __future__ import annotations

import msgspec


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The controller's own settings, with Kubernetes' defaults."""

    sync_period_s: float = 15.0
    """How often the controller looks."""
    tolerance: float = 0.1
    """How far a ratio may be from 1 before anything changes."""
    cpu_initialization_s: float = 300.0
    """For so long after its start a pod's CPU counts only when it is ready and measured since then."""
    initial_readiness_delay_s: float = 30.0
    """A pod that became unready within so long of its start was never ready."""
    downscale_stabilization_s: float = 300.0
    """For so long the highest recommendation holds."""
    scale_to_zero: bool = True
    """Whether object and external metrics may scale to zero: on by default since Kubernetes 1.37."""


class Tolerances(msgspec.Struct, frozen=True, kw_only=True):
    """How far a ratio may be from 1, below and above; the bounds themselves are within."""

    down: float = 0.1
    up: float = 0.1

    def hold(self, ratio: float) -> bool:
        """Whether a ratio is near enough to 1 that nothing changes."""
        return 1.0 - self.down <= ratio <= 1.0 + self.up


class MetricUnavailable(Exception):
    """A metric gives no count now. It is one of the inputs of a decision, never an error of the caller."""


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """What one metric asks for."""

    replicas: int
    usage: int
    """The value that the status shows: percent of the request for utilisation, thousandths otherwise."""
    average_m: int = 0
    """For utilisation: what a pod uses on average, in thousandths."""
