"""Our own autoscaler beside the best fixed count and the Horizontal Pod Autoscaler with the best floor.

Those two are chosen with hindsight, for the very stretch that is reported; ours is told a promise and has seen what
came before. All serve the same requests on replicas that start equally slowly. A request that waits for more than a
second is late."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.control.autoscale.horizontal import Autoscaler
from penstock.control.foresight import decide as foresight
from penstock.control.foresight.express import express, run
from penstock.control.foresight.trial import Replicas
from penstock.control.simulate import traffic
from penstock.control.simulate.scenario import Scaling
from penstock.deploy import autoscaling, reading

Floats = NDArray[np.float64]

WAIT_MAX_S = 1.0
STARTS_S = (5.0, 180.0)
LARGEST = 40
TRACES = {"code": 2.0, "conv": 8.0}
"""Names and mean durations of requests, in seconds: an assistant that completes code answers shortly, one that talks
does not."""


class Traffic(msgspec.Struct, frozen=True, kw_only=True):
    """Requests, of which those from a moment on are reported."""

    name: str
    arrivals: Any
    services: Any
    reported_from_s: float
    until_s: float
    concurrency: int
    counts: tuple[int, ...]
    """Fixed counts that are tried with hindsight."""
    floors: tuple[int, ...]
    """Floors of the Horizontal Pod Autoscaler that are."""
    promises: tuple[float, ...]
    """Shares of late requests that ours is told."""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """What one way of choosing the count came to."""

    policy: str
    late: float
    """Share of the requests that waited for more than a second."""
    replicas: float
    """Asked for, on average."""
    of_envelope: float | None = None
    """Our replicas over the fewest that any count or floor needs for no more late requests; None where none does."""
    of_ordered: float | None = None
    """The same, where those put who waits too long behind the others, as ours does."""


class Stretch(msgspec.Struct, frozen=True, kw_only=True):
    """One traffic with replicas that start in so many seconds."""

    traffic: str
    requests: int
    start_s: float
    rows: list[Policy]
    objects: list[Policy]
    """What Kubernetes' own objects can say of ours, found on what came before: first come, first served."""
    envelope: list[Policy]
    """What no other fixed count or floor beats in both, first come, first served."""
    ordered: list[Policy]
    """The same with who waits too long behind the others."""


def measure(folder: Path | None, note: Callable[[str], None]) -> list[Stretch]:
    """Every traffic with every start; the week takes most of some five minutes. Without a folder of traces, or where it
    has none, the week alone."""
    found = []
    for load in _traffics(folder):
        for start_s in STARTS_S:
            found.append(_stretch(load, start_s))
            best = [row.of_envelope for row in found[-1].rows if row.of_envelope is not None]
            said = ", ".join(f"{each:.2f}" for each in best) or "no row that can be compared"
            note(f"{load.name}, replicas start in {start_s:.0f} s: replicas of the envelope's {said}")
    return found


def _traffics(folder: Path | None) -> Iterator[Traffic]:
    for name, mean_s in TRACES.items():
        path = folder / "llm_traces" / f"AzureLLMInferenceTrace_{name}.csv" if folder is not None else None
        if path is not None and path.is_file():
            arrivals = traffic.read(path)
            yield Traffic(
                name=f"{name}, second half",
                arrivals=arrivals,
                services=np.full(len(arrivals), mean_s),
                reported_from_s=float(arrivals[-1]) / 2.0,
                until_s=float(arrivals[-1]),
                concurrency=4,
                counts=(*range(4, 21), 24),
                floors=(*range(4, 21), 24),
                promises=(0.002, 0.005, 0.01, 0.02, 0.05),
            )
    rng = np.random.default_rng(7)
    arrivals = traffic.daily(1.0, 7 * traffic.DAY_S, rng)
    yield Traffic(
        name="a week that follows the day",
        arrivals=arrivals,
        services=traffic.services(len(arrivals), 4.0, rng),
        reported_from_s=traffic.DAY_S,
        until_s=7 * traffic.DAY_S,
        concurrency=1,
        counts=tuple(range(8, 17)),
        floors=(2, 6, 10),
        promises=(0.005, 0.02),
    )


def _stretch(load: Traffic, start_s: float) -> Stretch:
    def hindsight(patience_s: float) -> list[Policy]:
        ways: list[tuple[str, int, Scaling | None]] = [(f"{count} replicas", count, None) for count in load.counts]
        for floor in load.floors:
            autoscaler = Autoscaler(smallest=floor, largest=LARGEST)
            ways.append((f"HPA at 70 % from {floor}", floor, Scaling(autoscaler=autoscaler)))
        return _best([_run(load, start_s, name, count, way, patience_s) for name, count, way in ways])

    envelope, ordered = hindsight(np.inf), hindsight(WAIT_MAX_S)
    rows: list[Policy] = []
    objects: list[Policy] = []
    for promise in load.promises:
        settings = foresight.Settings(
            concurrency=load.concurrency,
            start_s=start_s,
            largest=LARGEST,
            wait_max_s=WAIT_MAX_S,
            late_max=promise,
        )
        first = max(load.counts) // 2
        row = _run(load, start_s, f"ours, at most {promise:.1%} late", first, settings, WAIT_MAX_S)
        written = _written(load, settings)
        least = written.autoscaler.smallest
        said = _run(load, start_s, f"its objects, at most {promise:.1%} late", least, written, np.inf)
        for policy, each in ((rows, row), (objects, said)):
            of_envelope, of_ordered = (_ratio(each, others) for others in (envelope, ordered))
            policy.append(msgspec.structs.replace(each, of_envelope=of_envelope, of_ordered=of_ordered))
    reported = int((load.arrivals >= load.reported_from_s).sum())
    return Stretch(
        traffic=load.name,
        requests=reported,
        start_s=start_s,
        rows=rows,
        objects=objects,
        envelope=envelope,
        ordered=ordered,
    )


def _best(tried: Sequence[Policy]) -> list[Policy]:
    """Those that no other one beats or equals in both."""
    found: list[Policy] = []
    for one in sorted(tried, key=lambda policy: (policy.replicas, policy.late)):
        if not found or one.late < found[-1].late:
            found.append(one)
    return found


def _ratio(row: Policy, others: Sequence[Policy]) -> float | None:
    fewest = [other.replicas for other in others if other.late <= row.late]
    return row.replicas / min(fewest) if fewest else None


def _run(
    load: Traffic,
    start_s: float,
    name: str,
    count: int,
    scaling: Scaling | foresight.Settings | None,
    patience_s: float,
) -> Policy:
    replicas = Replicas(concurrency=load.concurrency, start_s=start_s, largest=LARGEST, wait_max_s=WAIT_MAX_S)
    way = run(
        load.arrivals,
        load.services,
        load.until_s,
        replicas,
        count,
        scaling,
        since_s=load.reported_from_s,
        patience_s=patience_s,
    )
    return Policy(policy=name, late=way.late, replicas=way.replicas)


def _written(load: Traffic, settings: foresight.Settings) -> Scaling:
    """What the objects say of the policy, found on what came before, written and read back."""
    before = load.arrivals < load.reported_from_s
    found = express(load.arrivals[before], load.services[before], load.reported_from_s, settings)
    return reading.horizontal(autoscaling.servers_hpa("service", found.scaling))


def tables(stretches: Sequence[Stretch]) -> dict[str, list[dict[str, Any]]]:
    """A table a stretch: ours, and what hindsight would have chosen."""
    found = {}
    for stretch in stretches:
        rows = [
            {
                "policy": row.policy,
                "late": f"{row.late:.2%}",
                "replicas": f"{row.replicas:.2f}",
                "of the envelope": "" if row.of_envelope is None else f"{row.of_envelope:.2f}",
                "in our order": "" if row.of_ordered is None else f"{row.of_ordered:.2f}",
            }
            for row in (*stretch.rows, *stretch.objects, *stretch.envelope)
        ]
        found[f"{stretch.traffic}, {stretch.requests:,} requests, replicas start in {stretch.start_s:.0f} s"] = rows
    return found


def words(stretches: Sequence[Stretch]) -> list[str]:
    """What it comes to, a sentence a stretch."""
    said = []
    for stretch in stretches:
        ratios = [row.of_envelope for row in stretch.rows if row.of_envelope is not None]
        fewer = sum(ratio < 1.0 for ratio in ratios)
        said.append(
            f"{stretch.traffic}, replicas start in {stretch.start_s:.0f} s: with {fewer} of {len(stretch.rows)} "
            "promises ours needs fewer replicas than any count or floor that is late no more often"
            + (f" ({min(ratios):.2f} to {max(ratios):.2f} of theirs)." if ratios else ".")
        )
    return said
