"""What `penstock autoscale` tries and shows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
import numpy as np

from penstock.cli.planning import asked as planning
from penstock.cli.planning.measured import SHAPE, measure
from penstock.cli.show import Column
from penstock.control.foresight.decide import Settings
from penstock.control.foresight.express import Expressed, Way, express, run
from penstock.control.plan.limits import seconds
from penstock.control.plan.rehearse import IMAGE, NODE, stretch
from penstock.control.plan.workload import DAY_S
from penstock.control.simulate.scenario import Scaling
from penstock.control.simulate.traffic import services
from penstock.deploy import autoscaling, reading
from penstock.spec import Spec

REQUESTS_MAX = 3_000_000
"""Of a period: some twenty ways are tried on all of them, a few seconds each."""
STEADY_MAX = 300_000


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the command line says."""

    rps: float | None
    swing: float
    trace: Path | None
    wait_ms: float
    late: float
    request_ms: float | None
    at_once: int
    start_s: float | None
    largest: int
    form: autoscaling.As
    prometheus: str
    kafka: autoscaling.Kafka | None
    seed: int


class Scaled(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is told."""

    service: str
    requests: int
    hours: float
    request_s: float
    settings: Settings
    scaling: Scaling
    """What the servers' file says, read back from it."""
    written: Way
    fixed: Way
    ours: Way
    kept: bool
    """Whether what is written keeps the promise."""
    files: dict[str, str]


def scaled(spec: Spec, asked: Asked, note: Callable[[str], None]) -> Scaled:
    """Try the policy on the traffic, write it as objects, and try these."""
    request_s, start_s = _takes(spec, asked, note)
    traffic, times = planning.traffic_of(planning.Asked(rps=asked.rps, swing=asked.swing, trace=asked.trace))
    rng = np.random.default_rng([asked.seed, 13])
    until_s = 0.0 if times is None else float(times[-1])
    if times is None:
        changes = len(set(traffic.rates)) > 1
        a_day = traffic.mean_rps * max(DAY_S, traffic.period_s)
        if changes and a_day > REQUESTS_MAX:
            raise click.UsageError(
                f"{a_day:,.0f} requests in which the traffic repeats are more than can be tried one by one "
                f"({REQUESTS_MAX:,}): give some hours of them with --traffic alone"
            )
        # Of what never changes a part is as good as the whole.
        times, _, until_s = stretch(traffic, rng, REQUESTS_MAX if changes else STEADY_MAX)
    took = services(len(times), request_s, rng, shape=SHAPE)
    settings = Settings(
        concurrency=asked.at_once,
        start_s=start_s,
        largest=asked.largest,
        wait_max_s=asked.wait_ms / 1e3,
        late_max=asked.late,
    )
    found = express(times, took, until_s, settings)
    files = autoscaling.files(
        spec,
        found.scaling,
        asked.form,
        prometheus=asked.prometheus,
        kafka=asked.kafka,
        found=_above(spec.name, asked.form, found, settings, len(times), until_s, request_s),
    )
    text = next(iter(files.values()))
    scaling = reading.horizontal(text) if asked.form == "hpa" else reading.scaled(text)
    first = scaling.autoscaler.smallest
    written = run(times, took, until_s, settings, first, scaling)
    return Scaled(
        service=spec.name,
        requests=len(times),
        hours=until_s / 3600.0,
        request_s=request_s,
        settings=settings,
        scaling=scaling,
        written=written,
        fixed=found.fixed,
        ours=run(times, took, until_s, settings, first, settings, patience_s=settings.wait_max_s),
        kept=written.late <= settings.late_max,
        files=files,
    )


def _takes(spec: Spec, asked: Asked, note: Callable[[str], None]) -> tuple[float, float]:
    """How long a prediction takes, and how late a replica is: a node, its image, and the start of a process."""
    process_s = 1.0
    if asked.request_ms is None:
        note("Measuring the service here: half a minute, more the first time")
        measured = measure(spec)
        request_s, process_s = measured.request_s, measured.start_s
    else:
        request_s = asked.request_ms / 1e3
    return request_s, NODE.median_s + IMAGE.median_s + process_s if asked.start_s is None else asked.start_s


def _above(
    service: str,
    form: autoscaling.As,
    found: Expressed,
    settings: Settings,
    requests: int,
    until_s: float,
    took_s: float,
) -> tuple[str, ...]:
    """What stands above the servers' object."""
    what = "the Horizontal Pod Autoscaler (autoscaling/v2)" if form == "hpa" else "KEDA (2.12 or later)"
    late, wait = f"{settings.late_max:.2%}", seconds(settings.wait_max_s)
    return (
        f"Servers of {service!r}, for {what}. Written by: penstock autoscale",
        f"Found on {requests:,} requests of {seconds(took_s)} in {until_s / 3600.0:,.3g} h, {settings.concurrency} at "
        f"once on a replica that starts in {seconds(settings.start_s)}:",
        f"{found.way.late:.2%} waited for more than {wait} "
        f"(promised: at most {late}), with {found.way.replicas:.1f} replicas on average.",
        f"The least fixed count that kept the promise: {found.fixed.replicas:.0f}.",
    )


def columns() -> list[Column]:
    """Of the table."""
    return [("way", "WAY"), ("count", "REPLICAS"), ("late", "LATE"), ("mean", "REPLICAS ON AVERAGE")]


def rows(found: Scaled) -> list[dict[str, Any]]:
    """The table."""
    least, most = found.scaling.autoscaler.smallest, found.scaling.autoscaler.largest
    says = f"{least} to {most}, one for {found.scaling.target:g} requests"
    ways = (
        ("a fixed count", f"{found.fixed.replicas:.0f}", found.fixed),
        ("what is written", says, found.written),
        ("Penstock's own policy", f"1 to {found.settings.largest}", found.ours),
    )
    return [
        {"way": name, "count": count, "late": f"{way.late:.2%}", "mean": f"{way.replicas:.2f}"}
        for name, count, way in ways
    ]


def words(found: Scaled) -> list[str]:
    """What the table does not say."""
    own = found.settings
    at_once = f"{own.concurrency} at once on a replica that starts in {seconds(own.start_s)}"
    said = [
        "",
        f"{found.requests:,} requests in {found.hours:,.3g} h, {seconds(found.request_s)} each, {at_once}.",
        f"Late is who waits for more than {seconds(own.wait_max_s)}; at most {own.late_max:.2%} may.",
        "The first two were found on these very requests. Our own policy had seen nothing, and puts late ones last.",
    ]
    bounds = found.scaling.autoscaler
    if not found.kept:
        said.append(f"Nothing up to {own.largest} replicas keeps the promise: raise --largest, --late or --wait-ms.")
    elif bounds.smallest == found.fixed.replicas:
        said.append(
            "Following these requests saves less than a twentieth of the replicas: the floor is the fixed count, "
            "and more come only when all of it is at work."
        )
    return said
