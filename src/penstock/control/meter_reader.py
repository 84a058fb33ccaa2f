"""Reads another system's figures from a thread, so that no look at the budget waits for it."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Callable

import msgspec

from penstock.control.interface import Meter
from penstock.control.meter.account import Outside
from penstock.control.meter.reading import Reading, days_due
from penstock.errors import MeterFailed

CLOSE_S = 2.0


class Heard(msgspec.Struct, frozen=True, kw_only=True):
    """What came of asking for one day."""

    reading: Reading | None = None
    fault: str = ""
    """Why there is no reading."""


class MeterReader:
    """Asks for the days that are due, every so many seconds; one that fails ends a round."""

    def __init__(
        self, open_meter: Callable[[], Meter], every_s: float, outside: Outside, now: Callable[[], float] = time.time
    ) -> None:
        """``outside`` is what the ledger remembers of earlier readings."""
        self._open = open_meter
        self._meter: Meter | None = None
        self._every_s = every_s
        self._now = now
        self._asking = outside
        self._heard: deque[Heard] = deque()
        self._failures = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="meter", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End; an answer that is still waited for is not."""
        self._stop.set()
        self._thread.join(CLOSE_S)

    def has_heard(self) -> bool:
        """Whether there is something to take."""
        return bool(self._heard)

    def take(self) -> list[Heard]:
        """What was heard since this was last called, in order."""
        found = []
        while self._heard:
            found.append(self._heard.popleft())
        return found

    def read(self) -> None:
        """One round; it is in vain when one of its days is."""
        for day in days_due(self._asking, self._now()):
            try:
                self._meter = self._meter or self._open()
                reading = self._meter.day(day)
            except MeterFailed as error:
                self._failed(str(error))
                return
            except Exception as error:
                # A defect of ours: whoever counts on being told must hear that he is not.
                self._failed(f"reading what was spent failed: {type(error).__name__}: {error}")
                return
            self._asking = self._asking.told(reading.day, reading.at, {})
            self._heard.append(Heard(reading=reading))
        self._failures = 0

    def _failed(self, fault: str) -> None:
        self._failures += 1
        self._heard.append(Heard(fault=fault))
        if self._failures.bit_count() == 1:
            # The first, second, fourth, eighth ...: another system's outage must not flood a log.
            sys.stderr.write(f"{fault} (asked {self._failures} times in vain)\n")
            sys.stderr.flush()

    def _run(self) -> None:
        self.read()
        while not self._stop.wait(self._every_s):
            self.read()
        if self._meter is not None:
            self._meter.close()
