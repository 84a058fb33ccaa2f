"""Group commit: what concurrent requests append shares one fsync."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from penstock.errors import LogUnavailable, Overloaded
from penstock.eventlog.interface import Entry, LogWriter
from penstock.eventlog.segment import PAYLOAD_BYTES_MAX, payload_bytes
from penstock.events import Offset

logger = logging.getLogger(__name__)

Done = Callable[[Offset | Exception], None]

_GROUP_BYTES_MAX = 8 * 1024 * 1024
"""In one append at most, unless an entry is larger: beyond this a shared fsync saves nothing and waiting grows."""


class GroupCommit:
    """A thread that appends what was submitted while the disk was busy with the group before."""

    def __init__(self, writer: LogWriter, *, max_pending_bytes: int) -> None:
        """The writer stays its owner's, who closes it after this."""
        self._writer = writer
        self._max_pending_bytes = max_pending_bytes
        self._waiting: deque[tuple[Entry, int, Done]] = deque()
        self._pending_bytes = 0
        self._submitted = 0
        self._decided = 0
        self._closing = False
        lock = threading.Lock()
        self._arrived = threading.Condition(lock)
        self._progressed = threading.Condition(lock)
        self._thread = threading.Thread(target=self._run, name=f"commit-{writer.partition}", daemon=True)
        self._thread.start()

    @property
    def pending_bytes(self) -> int:
        """Payload bytes that were submitted and are not decided yet."""
        return self._pending_bytes

    def submit(self, entry: Entry, done: Done) -> None:
        """Have the entry appended, and ``done`` called in the commit thread, with the entry's first offset once it is
        durable or with the error.

        Returns at once. Raises Overloaded when too much is pending already, LogUnavailable after close, and ValueError
        for an entry that no frame can hold; ``done`` is not called then."""
        size = payload_bytes(entry)
        if entry.count < 1 or size > PAYLOAD_BYTES_MAX:
            raise ValueError(f"an entry has at least one event and at most {PAYLOAD_BYTES_MAX} bytes")
        with self._arrived:
            if self._closing:
                raise LogUnavailable(folder=f"partition {self._writer.partition}", reason="the service is stopping")
            if self._pending_bytes and self._pending_bytes + size > self._max_pending_bytes:
                raise Overloaded(reason=f"{self._pending_bytes} bytes of events wait for the disk")
            self._pending_bytes += size
            self._submitted += 1
            self._waiting.append((entry, size, done))
            if len(self._waiting) == 1:
                self._arrived.notify()

    def flush(self) -> None:
        """Return when everything that was submitted before is decided, and its ``done`` has been called."""
        with self._progressed:
            target = self._submitted
            self._progressed.wait_for(lambda: self._decided >= target)

    def close(self) -> None:
        """Take nothing more, append what is pending and end the thread."""
        with self._arrived:
            self._closing = True
            self._arrived.notify()
        self._thread.join()

    def _run(self) -> None:
        while group := self._next_group():
            try:
                offsets: list[Offset | Exception] = list(self._writer.append([entry for entry, _, _ in group]))
            except (
                Exception
            ) as error:  # Whatever it is, those who wait must hear of it, and the next group gets its try.
                offsets = [error] * len(group)
            for (_, _, done), offset in zip(group, offsets, strict=True):
                try:
                    done(offset)
                except Exception:
                    logger.exception("a callback of a committed entry failed")
            with self._progressed:
                self._pending_bytes -= sum(size for _, size, _ in group)
                self._decided += len(group)
                self._progressed.notify_all()

    def _next_group(self) -> list[tuple[Entry, int, Done]]:
        """What to append next, in the order of submission; empty when closed and drained."""
        with self._arrived:
            while not self._waiting and not self._closing:
                self._arrived.wait()
            group: list[tuple[Entry, int, Done]] = []
            total = 0
            while self._waiting and (not group or total + self._waiting[0][1] <= _GROUP_BYTES_MAX):
                group.append(self._waiting.popleft())
                total += group[-1][1]
            return group
