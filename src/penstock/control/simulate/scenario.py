"""What is simulated. Every delay is a distribution: how late nodes, devices, images and models come decides more than
any rule of the autoscalers."""

from __future__ import annotations

import math
from typing import Literal

import msgspec
import numpy as np

from penstock.control.autoscale import horizontal
from penstock.control.autoscale import interface as autoscale
from penstock.control.foresight import decide as foresight
from penstock.control.nodes import autoscaler
from penstock.control.nodes.shapes import PodShape


class Delay(msgspec.Struct, frozen=True, kw_only=True):
    """A log-normal delay; without spread it is fixed."""

    median_s: float
    spread: float = 0.0
    """The standard deviation of its logarithm."""

    def draw(self, rng: np.random.Generator) -> float:
        """One delay."""
        return float(self.median_s * np.exp(self.spread * rng.standard_normal()))


NONE = Delay(median_s=0.0)


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """The replicas that answer."""

    pod: PodShape
    replicas: int = 1
    """At the beginning, and for good where there is no autoscaler."""
    concurrency: int = 1
    """Requests that one replica works on at once."""
    image_pull: Delay = NONE
    """The first time on a node."""
    model_load: Delay = NONE
    """At every start."""
    grace_s: float = 30.0
    """A replica that is to go finishes what it works on, for so long."""
    crashes_per_h: float = 0.0
    """Of one replica."""
    patience_s: float = math.inf
    """A request that has waited for longer goes behind those that have not; without, all are served as they came."""


class Learning(msgspec.Struct, frozen=True, kw_only=True):
    """The learner: one pod, behind which events queue."""

    pod: PodShape
    events_per_request: float = 1.0
    rate_eps: float
    """Events that it learns a second."""
    restore: Delay = NONE
    """From its start to its first step: the checkpoint is read."""
    publish_s: float = 0.001
    """From a step to the predictions."""


class Scaling(msgspec.Struct, frozen=True, kw_only=True):
    """How the replicas follow the load; a target of 70 % of the processor unless said otherwise."""

    autoscaler: horizontal.Autoscaler
    metric: Literal["utilization", "concurrency", "requests"] = "utilization"
    """``concurrency`` is asked of each replica. ``requests`` is of all together, as the histogram of answer times tells
    Prometheus: the seconds of those that ended, over a window, which is how many were there on average (Little)."""
    target: float = 70.0
    """Percent of the request, or requests that a replica has: those it works on and its share of those that wait."""
    window_s: float = 60.0
    """Over which ``requests`` are averaged."""
    scrape_s: float = 15.0
    """How often the metrics are read; what the autoscaler sees is that old."""
    settings: autoscale.Settings = autoscale.Settings()


class Pool(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes of one kind. What is to be believed of them is in the group's template."""

    group: autoscaler.NodeGroup
    provision: Delay = Delay(median_s=90.0)
    """From the request to Ready."""
    device_plugin: Delay = NONE
    """From Ready to devices that pods can ask for."""
    usd_h: float
    spot_reclaims_per_h: float = 0.0
    """Of one node; 0 for nodes that are paid for in full."""
    spot_notice_s: float = 120.0


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """A service, its nodes, and for how long they are looked at."""

    duration_s: float
    serving: Serving
    pools: tuple[Pool, ...]
    """Each begins with as many nodes as its group's target says, ready."""
    scaling: Scaling | foresight.Settings | None = None
    """The Horizontal Pod Autoscaler, or our own; None for a fixed count."""
    learning: Learning | None = None
    nodes_settings: autoscaler.Settings = autoscaler.Settings()
    overhead_usd_h: float = 0.0
    """What the control plane costs."""
