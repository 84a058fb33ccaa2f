"""What Kubernetes' own objects can say of the policy: a floor, a target, and for how long a high count holds.

They make no trial and know no promise, so the trial is made beforehand, once, on requests that are known, with the very
decider that will follow the object: the least floor with which the promise was kept, for each of a few targets and
times for which a high count holds, and the cheapest of these; or the least fixed count as the floor, where following
saves nothing. What they cannot say is the rest: to look again when the bursts change, to see requests before they have
ended, and to let who waits too long go behind the others."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.control.autoscale.horizontal import Autoscaler
from penstock.control.autoscale.limits import Behavior, Policy, Rules
from penstock.control.foresight.decide import CHANGE_MAX, Settings, least
from penstock.control.foresight.trial import Replicas
from penstock.control.nodes.autoscaler import NodeGroup
from penstock.control.nodes.shapes import NodeShape, PodShape
from penstock.control.simulate.outcome import Moment
from penstock.control.simulate.run import follow
from penstock.control.simulate.scenario import Delay, Pool, Scaling, Scenario, Serving

Floats = NDArray[np.float64]

TARGETS = (0.6, 0.8, 1.0)
"""Shares of the requests that a replica can work on at once."""
HOLDS_S = (60.0, 300.0)
"""For how long the highest count holds: our own policy's time, and Kubernetes'. Over the longer one chance is at its
highest, which is a margin, and costs what it costs."""
LOOK_S = 15.0
"""How often the autoscaler looks, and so the period in which every replica that is needed may be added."""


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """What a way of choosing the count came to."""

    late: float
    """The share of requests that waited for longer than they may."""
    replicas: float
    """Asked for, on average."""


class Expressed(msgspec.Struct, frozen=True, kw_only=True):
    """What the objects are to say, and what that came to on the requests on which it was found."""

    scaling: Scaling
    way: Way
    kept: bool
    """Whether the promise was; where it was not, the floor is the largest count."""
    fixed: Way
    """The least fixed count that kept it, beside."""


def express(arrivals: Floats, services: Floats, until_s: float, settings: Settings) -> Expressed:
    """Find the cheapest that keeps the promise on these requests, in order of their arrival, until a moment."""

    def tried(floor: int, way: tuple[float, float] | None) -> Way:
        scaling = None if way is None else saying(floor, *way, settings)
        return run(arrivals, services, until_s, settings, floor, scaling)

    def floor_of(way: tuple[float, float] | None, near: int) -> int:
        return least(lambda floor: tried(floor, way).late <= settings.late_max, near, settings)

    mean = float(services.sum()) / max(until_s, 1.0) / settings.concurrency
    count = floor_of(None, round(1.5 * mean) + 1)
    fixed = tried(count, None)
    # Where following saves next to nothing the floor is the fixed count. More come only when all of it is at work: the
    # object will not be looked at again when what comes changes.
    ways = [(share * settings.concurrency, hold_s) for share in TARGETS for hold_s in HOLDS_S]
    whole = (TARGETS[-1] * settings.concurrency, HOLDS_S[0])
    scaling, best, most = saying(count, *whole, settings), tried(count, whole), CHANGE_MAX * fixed.replicas
    for way in ways if count > settings.smallest else ():
        floor = floor_of(way, count)
        followed = tried(floor, way)
        if followed.late <= settings.late_max and followed.replicas < most:
            scaling, best, most = saying(floor, *way, settings), followed, followed.replicas
    return Expressed(scaling=scaling, way=best, kept=best.late <= settings.late_max, fixed=fixed)


def saying(floor: int, target: float, hold_s: float, settings: Settings) -> Scaling:
    """A floor and a target of requests a replica, as the Horizontal Pod Autoscaler takes them: up at once, as far as it
    asks for, and down when the highest count has held for its time."""
    largest = settings.largest
    up = Rules(
        stabilization_s=0.0,
        select="Max",
        policies=(Policy(type="Pods", value=largest, period_s=LOOK_S),),
    )
    down = Rules(
        stabilization_s=hold_s,
        select="Max",
        policies=(Policy(type="Percent", value=100, period_s=LOOK_S),),
    )
    behavior = Behavior(scale_up=up, scale_down=down)
    return Scaling(
        autoscaler=Autoscaler(smallest=floor, largest=largest, behavior=behavior),
        metric="requests",
        # The objects have thousandths.
        target=round(target, 3),
    )


def run(
    arrivals: Floats,
    services: Floats,
    until_s: float,
    replicas: Replicas,
    first: int,
    scaling: Scaling | Settings | None,
    *,
    since_s: float = 0.0,
    patience_s: float = np.inf,
) -> Way:
    """Let these requests come to a service that begins with ``first`` replicas, and tell what came of those since a
    moment."""
    shape = NodeShape(cpu_m=1000 * max(first, replicas.largest), memory_b=2**40)
    scenario = Scenario(
        duration_s=until_s,
        serving=Serving(
            pod=PodShape(cpu_m=1000, memory_b=2**30, owner="server"),
            replicas=first,
            concurrency=replicas.concurrency,
            model_load=Delay(median_s=replicas.start_s),
            patience_s=patience_s,
        ),
        # One node with room for all: how late replicas are is told by their start alone.
        pools=(Pool(group=NodeGroup(name="all", shape=shape, smallest=1, largest=1, target=1), usd_h=1.0),),
        scaling=scaling,
    )
    outcome, waits = follow(scenario, arrivals, services, seed=1)
    # Who came so shortly before the end that nobody can know is not counted.
    counted = waits[(arrivals >= since_s) & (arrivals <= until_s - replicas.wait_max_s)]
    late = ~(counted <= replicas.wait_max_s)
    return Way(
        late=float(late.mean()) if len(late) else 0.0,
        replicas=asked_for(outcome.moments, first, since_s, until_s),
    )


def asked_for(moments: Sequence[Moment], first: int, since_s: float, until_s: float) -> float:
    """The mean count over a stretch."""
    times = np.array([0.0, *(moment.t for moment in moments), until_s])
    counts = np.array([first, *(moment.replicas for moment in moments)], np.float64)
    spans = np.maximum(0.0, times[1:] - np.maximum(times[:-1], since_s))
    return float((counts * spans).sum() / (until_s - since_s))
