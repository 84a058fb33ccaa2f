"""From a service file and what was asked to a workload."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
import numpy as np

from penstock.cli.planning.measured import Measured
from penstock.control.plan import workload
from penstock.control.plan.workload import Floats, Traffic, Workload
from penstock.control.simulate.traffic import read
from penstock.errors import BadFile
from penstock.spec import Spec

SPAN_S = 60.0
"""A trace of less says nothing of a month."""
SPAN_MAX_S = 366 * 86_400.0
"""A trace of more is taken for one whose times are not what they seem, such as milliseconds."""


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says beside the service file."""

    rps: float | None = None
    swing: float = 0.0
    trace: Path | None = None
    p99_s: float = 0.2
    fresh_s: float | None = None
    gpu: workload.Device | None = None
    accelerator: str | None = None
    survives_machine: bool = False
    frozen: bool = False
    events_per_request: float = 1.0
    image_mib: float = 500.0


def traffic_of(asked: Asked) -> tuple[Traffic, Floats | None]:
    """What comes, and when exactly, where that is known."""
    if asked.trace is None:
        assert asked.rps is not None
        return (workload.daily(asked.rps, swing=asked.swing) if asked.swing else workload.steady(asked.rps)), None
    times = read(asked.trace)
    if len(times) < 2 or float(times[-1]) < SPAN_S:
        raise BadFile(asked.trace, f"its times span {float(times[-1]):,.3g} s: a plan needs a minute at least")
    if float(times[-1]) > SPAN_MAX_S:
        days = float(times[-1]) / 86_400.0
        raise BadFile(asked.trace, f"its times span {days:,.4g} days: are they seconds? A plan looks at a year at most")
    found = workload.of_times(times)
    if asked.rps is not None:
        factor = asked.rps / found.mean_rps
        # The same pattern at another rate is another draw of requests.
        return found.scaled(factor), times if np.isclose(factor, 1.0) else None
    return found, times


def workload_of(spec: Spec, measured: Measured, traffic: Traffic, asked: Asked) -> Workload:
    """The service under this traffic."""
    trains = spec.consolidate.when != "never" and not asked.frozen
    device = asked.gpu
    if device is None:
        device = "learning" if trains and spec.consolidate.device == "cuda" else "none"
    if asked.frozen and device == "learning":
        raise click.UsageError("--frozen has nothing that learns, and so nothing that could learn on a GPU")
    return Workload(
        traffic=traffic,
        service_s=measured.request_s,
        service_shape=measured.shape,
        server_mib=measured.server_mib,
        start_s=measured.start_s,
        image_mib=asked.image_mib,
        learns=not asked.frozen,
        learn_s=0.0 if asked.frozen else measured.learn_s,
        events_per_request=asked.events_per_request,
        learner_mib=measured.learner_mib,
        training_s=spec.consolidate.max_s if trains else 0.0,
        device=device,
        accelerator=asked.accelerator,
        p99_s=asked.p99_s,
        fresh_s=None if asked.frozen else asked.fresh_s,
        survives_machine=asked.survives_machine,
    )
