"""Requests and the slots that serve them: first come, first served, on the slot that has been free for longest.

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
    head, until, arrivals, services, opens, owners, waits, begun, busy
):
    """Begin every request from ``head`` on that begins before ``until``; the first that does not."""
    total = len(arrivals)
    while head < total:
        slot = 0
        for other in range(1, len(opens)):
            if opens[other] < opens[slot]:
                slot = other
        if len(opens) == 0:
            break
        start = max(arrivals[head], opens[slot])
        if start >= until:
            break
        opens[slot] = start + services[head]
        waits[head] = start - arrivals[head]
        begun[slot] = head
        busy[owners[slot]] += services[head]
        head += 1
    return head


class Queue:
    """All requests of a run, and the slots as they are now."""

    def __init__(self, arrivals: Floats, services: Floats, concurrency: int) -> None:
        self.arrivals, self.services, self.concurrency = arrivals, services, concurrency
        self.waits = np.full(len(arrivals), np.nan)
        self.head = 0
        """The first request that has not begun."""
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
                self.arrivals,
                self.services,
                self.opens,
                self.owners,
                self.waits,
                self.begun,
                self.busy,
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
        return max(0, int(np.searchsorted(self.arrivals, now, side="right")) - self.head) + len(self._again)

    def worked(self, now: float) -> Floats:
        """Seconds that the slots of each replica have worked until now."""
        self._remember()
        still = np.maximum(self.ends - now, 0.0)
        return self.busy - np.bincount(self.owners, weights=still, minlength=len(self.busy))

    def _remember(self) -> None:
        closed = np.isinf(self.opens)
        self.ends = np.where(closed, self.ends, self.opens)
