"""Requests that came once arrive again, in memory, at so many replicas."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numba
import numpy as np
from numpy.typing import NDArray

from penstock.control.simulate.queue import serve

Floats = NDArray[np.float64]


class Replicas(msgspec.Struct, frozen=True, kw_only=True):
    """What serves, and how its count follows the requests."""

    concurrency: int
    """Requests that one replica works on at once."""
    start_s: float
    """From asking for a replica to its first request."""
    largest: int
    wait_max_s: float = 1.0
    """A request that waits for longer is late, and goes behind those that have not."""
    hold_s: float = 60.0
    """For so long the highest count holds, which keeps replicas from coming and going."""
    period_s: float = 5.0
    """How often it looks at the requests that are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What would have been."""

    late: float
    """The share of requests that would have been late."""
    replica_s: float
    """Seconds of replicas that would have been paid for, from asking for them."""


def attempt(
    arrivals: Floats, services: Floats, duration_s: float, floor: int, follows: bool, replicas: Replicas
) -> Trial:
    """Let (n,) requests, ascending in seconds from the beginning, of these durations arrive at so many replicas, with
    more where requests need them if the count ``follows``."""
    waits, replica_s = _again(
        arrivals,
        services,
        duration_s,
        floor,
        follows,
        replicas.largest,
        replicas.concurrency,
        replicas.start_s,
        replicas.wait_max_s,
        max(1, int(replicas.hold_s / replicas.period_s)),
        replicas.period_s,
    )
    # Who came so shortly before the end that nobody can know is not counted.
    counted = waits[arrivals <= duration_s - replicas.wait_max_s]
    late = ~(counted <= replicas.wait_max_s)
    return Trial(late=float(late.mean()) if len(late) else 0.0, replica_s=replica_s)


@numba.njit(cache=True)
def _again(  # type: ignore[no-untyped-def]
    arrivals, services, duration_s, floor, follows, largest, concurrency, start_s, patience_s, holds, period_s
):
    """Waits, NaN of those that were not begun, and the seconds that replicas were asked for. One that goes ends what
    it works on."""
    total = len(arrivals)
    waits, begun = np.full(total, np.nan), np.empty(largest * concurrency, np.int64)
    late, of_late, head, arrived = np.empty(total, np.int64), np.zeros(2, np.int64), 0, 0
    opens, ready = np.zeros(largest * concurrency), np.zeros(largest)
    owners, busy = np.zeros(largest * concurrency, np.int64), np.zeros(1)
    count = min(floor, largest)
    wanted = np.zeros(holds, np.int64)
    paid_s, now = 0.0, 0.0
    for look in range(int(np.ceil(duration_s / period_s))):
        until = min(now + period_s, duration_s)
        slots = count * concurrency
        head = serve(
            head, until, patience_s, arrivals, services, opens[:slots], owners, waits, begun, busy, late, of_late
        )
        paid_s += count * (until - now)
        now = until
        want = floor
        if follows:
            while arrived < total and arrivals[arrived] <= now:
                arrived += 1
            here = max(0, arrived - head) + of_late[1] - of_late[0]
            for slot in range(slots):
                if opens[slot] > now and ready[slot // concurrency] <= now:
                    here += 1
            want = max(floor, (here + concurrency - 1) // concurrency)
        wanted[look % holds] = want
        want = min(largest, wanted.max())
        for replica in range(count, want):
            ready[replica] = now + start_s
            for slot in range(replica * concurrency, (replica + 1) * concurrency):
                opens[slot] = max(opens[slot], now + start_s)
        count = want
    return waits, paid_s
