"""Requests and the slots that serve them: first come, first served, on the slot that has been free for longest.

With a patience, a request that has waited for longer than that goes behind all that have not: when there are too few
slots for all, most are served in time instead of none. It is not turned away, and is served when nobody else waits.

Between two moments at which something about the slots changes, a compiled loop serves all requests that begin there. A
request is begun only when it begins before the next such moment; so whatever changes then finds the queue as it is."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
CLOSED = np.inf
"""When a slot is free that takes no more requests: never."""


@numba.njit(cache=True)
def serve(  # type: ignore[no-untyped-def]
    head, until, patience, arrivals, services, opens, owners, waits, begun, busy, late, of_late
):
    """Begin every request from ``head`` on that begins before ``until``; the first that has neither begun nor become
    late. ``late`` holds those that waited too long, in ``of_late`` stand the first of them and one past the last."""
    total = len(arrivals)
    if len(opens) == 0:
        return head
    while True:
        slot = 0
        for other in range(1, len(opens)):
            if opens[other] < opens[slot]:
                slot = other
        start = opens[slot]
        if start >= until:
            break
        while head < total and start - arrivals[head] > patience:
            late[of_late[1]] = head
            of_late[1] += 1
            head += 1
        if head < total and (arrivals[head] <= start or of_late[0] == of_late[1]):
            start = max(start, arrivals[head])
            if start >= until:
                break
            request = head
            head += 1
        elif of_late[0] < of_late[1]:
            request = late[of_late[0]]
            of_late[0] += 1
        else:
            break
        opens[slot] = start + services[request]
        waits[request] = start - arrivals[request]
        begun[slot] = request
        busy[owners[slot]] += services[request]
    return head


class Queue:
    """All requests of a run, and the slots as they are now."""

    def __init__(self, arrivals: Floats, services: Floats, concurrency: int, patience_s: float = np.inf) -> None:
        self.arrivals, self.services, self.concurrency = arrivals, services, concurrency
        self.patience_s = patience_s
        self.late = np.empty(len(arrivals) if patience_s < np.inf else 0, np.int64)
        """Requests that waited for longer than the patience, in the order in which they are served."""
        self.of_late = np.zeros(2, np.int64)
        """The first of them that has not begun, and one past the last."""
        self.waits = np.full(len(arrivals), np.nan)
        self.head = 0
        """The first request that has neither begun nor become late."""
        self.opens = np.empty(0)
        """When each slot takes its next request."""
        self.ends = np.empty(0)
        """When each slot's last request ends, which for a slot that takes no more is all that counts."""
        self.owners = np.empty(0, np.int64)
        self.begun = np.empty(0, np.int64)
        """The request that each slot began last, or -1."""
        self.busy = np.zeros(64)
        """Seconds of work that each replica was given so far."""
        self.retried = 0
        self._again: list[tuple[int, float]] = []
        """Requests whose replica went away, and when: they are the first to begin."""

    def advance(self, until: float) -> None:
        """Serve until a moment."""
        while self._again:
            request, since = self._again[0]
            slot = int(self.opens.argmin()) if len(self.opens) else -1
            start = max(since, float(self.opens[slot])) if slot >= 0 else CLOSED
            if start >= until:
                return
            self.opens[slot] = start + self.services[request]
            self.waits[request] = start - self.arrivals[request]
            self.begun[slot] = request
            self.busy[self.owners[slot]] += self.services[request]
            del self._again[0]
        self.head = int(
            serve(
                self.head,
                until,
                self.patience_s,
                self.arrivals,
                self.services,
                self.opens,
                self.owners,
                self.waits,
                self.begun,
                self.busy,
                self.late,
                self.of_late,
            )
        )

    def open(self, replica: int, now: float) -> None:
        """A replica takes requests from now on."""
        count = self.concurrency
        if replica >= len(self.busy):
            self.busy = np.concatenate([self.busy, np.zeros(max(len(self.busy), replica + 1))])
        self.opens = np.concatenate([self.opens, np.full(count, now)])
        self.ends = np.concatenate([self.ends, np.full(count, now)])
        self.owners = np.concatenate([self.owners, np.full(count, replica, np.int64)])
        self.begun = np.concatenate([self.begun, np.full(count, -1, np.int64)])

    def close(self, replica: int) -> float:
        """A replica takes no more; when the last request that it works on ends."""
        mine = self.owners == replica
        self._remember()
        last = float(self.ends[mine].max(initial=-np.inf))
        self.opens[mine] = CLOSED
        return last

    def remove(self, replica: int, now: float) -> None:
        """A replica is gone. What it was working on begins anew elsewhere, before anything that waits."""
        self._remember()
        mine = self.owners == replica
        broken = [int(each) for each in self.begun[mine & (self.ends > now)]]
        keep = ~mine
        self.opens, self.ends, self.owners = self.opens[keep], self.ends[keep], self.owners[keep]
        self.begun = self.begun[keep]
        for request in broken:
            taken = self.arrivals[request] + self.waits[request]
            self.busy[replica] -= taken + self.services[request] - now
            self.waits[request] = np.nan
            self.retried += 1
            self._again.append((request, now))

    def at_work(self, now: float) -> int:
        """Requests that are being worked on."""
        self._remember()
        return int((self.ends > now).sum())

    def waiting(self, now: float) -> int:
        """Requests that have come and not begun."""
        late = int(self.of_late[1] - self.of_late[0])
        return max(0, int(np.searchsorted(self.arrivals, now, side="right")) - self.head) + late + len(self._again)

    def worked(self, now: float) -> Floats:
        """Seconds that the slots of each replica have worked until now."""
        self._remember()
        still = np.maximum(self.ends - now, 0.0)
        return self.busy - np.bincount(self.owners, weights=still, minlength=len(self.busy))

    def _remember(self) -> None:
        closed = np.isinf(self.opens)
        self.ends = np.where(closed, self.ends, self.opens)


class Ended:
    """What a service knows of its requests: when they came, and, once they have ended, how long they took."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._arrived = self._told_up_to = self._judged = 0
        self._told = np.zeros(len(queue.arrivals), np.bool_)

    def since(self, now: float) -> tuple[Floats, Floats, Floats]:
        """The arrivals since the last call; of the requests that have ended since then the durations, and how long they
        were there, waiting or worked on."""
        queue, first = self._queue, self._told_up_to
        arrived = int(np.searchsorted(queue.arrivals, now, side="right"))
        came = queue.arrivals[self._arrived : arrived]
        self._arrived = arrived
        ends = queue.arrivals[first:arrived] + queue.waits[first:arrived] + queue.services[first:arrived]
        new = first + np.flatnonzero((ends <= now) & ~self._told[first:arrived])
        self._told[new] = True
        still = np.flatnonzero(~self._told[first:arrived])
        self._told_up_to = first + (int(still[0]) if len(still) else arrived - first)
        return came, queue.services[new], queue.waits[new] + queue.services[new]

    def judged(self, now: float, wait_max_s: float) -> tuple[int, int]:
        """Of how many requests it has become known since the last call whether they are late, and of how many that they
        are: those that waited for longer, or do."""
        first, last = self._judged, int(np.searchsorted(self._queue.arrivals, now - wait_max_s, side="right"))
        self._judged = last
        return last - first, int((~(self._queue.waits[first:last] <= wait_max_s)).sum())
