"""What comes, what it takes, and what is wanted of the answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
DAY_S = 86_400.0
HOURS_A_MONTH = 730.0
"""365 days of 24 hours over 12 months."""
MONTH_S = HOURS_A_MONTH * 3600.0
COUNTED = 25
"""Requests that a step of a trace holds on average at least, so that its count is its rate within a fifth."""
STEPS_MAX = 8640

Device = Literal["none", "learning", "serving"]


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Requests a second over a period that repeats; within a step they come at random (a Poisson process)."""

    rates: tuple[float, ...]
    step_s: float

    @property
    def mean_rps(self) -> float:
        """Over the whole period."""
        return float(np.mean(self.rates))

    @property
    def peak_rps(self) -> float:
        """Of the busiest step."""
        return max(self.rates)

    @property
    def period_s(self) -> float:
        """After which it repeats."""
        return self.step_s * len(self.rates)

    def scaled(self, factor: float) -> Traffic:
        """So many times as many requests."""
        return Traffic(rates=tuple(rate * factor for rate in self.rates), step_s=self.step_s)


def steady(rps: float) -> Traffic:
    """The same rate always."""
    return Traffic(rates=(rps,), step_s=3600.0)


def daily(rps: float, *, swing: float = 0.8, step_s: float = 300.0) -> Traffic:
    """A rate that follows the day: ``1 − swing`` of the mean at midnight, ``1 + swing`` at noon."""
    middle = (np.arange(round(DAY_S / step_s)) + 0.5) * step_s
    rates = rps * (1.0 - swing * np.cos(2.0 * np.pi * middle / DAY_S))
    return Traffic(rates=tuple(rates.tolist()), step_s=step_s)


def bursts(rps: float, *, factor: float = 6.0, burst_s: float = 60.0, every_s: float = 900.0) -> Traffic:
    """A steady rate but for bursts of ``factor`` times it, one every ``every_s``; ``rps`` is the mean of all."""
    steps = round(every_s / burst_s)
    rates = [1.0] * (steps - 1) + [factor]
    scale = rps / float(np.mean(rates))
    return Traffic(rates=tuple(rate * scale for rate in rates), step_s=burst_s)


def of_times(times: Sequence[float] | Floats) -> Traffic:
    """The rates of a trace, in steps of whole ten seconds that hold some 25 requests on average or more."""
    arrived = np.asarray(times, np.float64)
    span_s = max(float(arrived[-1]), 1.0)
    fine_s = max(span_s / STEPS_MAX, COUNTED * span_s / len(arrived))
    step_s = min(10.0 * np.ceil(fine_s / 10.0), max(10.0, span_s))
    steps = max(1, int(np.ceil(span_s / step_s)))
    # The last step ends with the trace, and is as long as the others only by chance.
    counts = np.bincount(np.minimum(arrived // step_s, steps - 1).astype(int), minlength=steps)
    lengths = np.full(steps, step_s)
    lengths[-1] = max(span_s - step_s * (steps - 1), 1.0)
    return Traffic(rates=tuple((counts / lengths).tolist()), step_s=float(step_s))


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """A service under its traffic. Times are of one core of the machine on which they were measured."""

    traffic: Traffic
    service_s: float
    """Processor time of one prediction, from its request to its answer; of a device where it is served on one."""
    service_shape: float = 1.0
    """How even those times are: the shape of a gamma distribution, 1 for exponential, more for more alike."""
    server_mib: float = 256.0
    """Memory of one server process."""
    start_s: float = 1.0
    """From the start of a server process to its first answer."""
    image_mib: float = 500.0
    """Of the image with everything in it, unpacked."""
    weights_mib: float = 1.0
    """What a server reads to predict with the newest version."""
    learns: bool = True
    """Whether predictions have to follow what is learned; a model that never changes needs no learner."""
    learn_s: float = 0.0
    """Processor time of the learner an event."""
    events_per_request: float = 1.0
    learner_mib: float = 512.0
    training_s: float = 0.0
    """How long the longest single piece of work takes: the training of a new base; 0 where there is none."""
    device: Device = "none"
    """What needs a GPU."""
    accelerator: str | None = None
    """Of which kind; None for any."""
    p99_s: float
    """Within which 99 of 100 answers are wanted, from the request's arrival at the service, without the network."""
    fresh_s: float | None = None
    """Within which 99 of 100 events are wanted in the predictions; None where it does not matter."""
    survives_machine: bool = False
    """Whether predictions must go on while any one machine is down."""

    def scaled(self, traffic: float = 1.0, service: float = 1.0) -> Workload:
        """With so many times the traffic, and answers that take so many times as long."""
        return msgspec.structs.replace(self, traffic=self.traffic.scaled(traffic), service_s=self.service_s * service)

    @property
    def learner_load(self) -> float:
        """Cores that the learner is busy on, on average."""
        return self.traffic.mean_rps * self.events_per_request * self.learn_s if self.learns else 0.0

    @property
    def requests_a_month(self) -> float:
        """On average."""
        return self.traffic.mean_rps * MONTH_S
