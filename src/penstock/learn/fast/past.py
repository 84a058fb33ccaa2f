"""Old events that are kept beside a model, and when some of them are asked about again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.events import Batch, decode, encode
from penstock.learn.fast.lasting import ASKED, EVERY

KEPT_MAX = 1024
KEPT_MAX_BYTES = 4 * 1024**2
"""Of old events: fewer of these are kept where they are large, since every checkpoint holds them."""
FIRST_ASKED = 4
"""Times ASKED old events are asked about before the first new one comes: enough for a few powers, and few enough for
new events to be heard beside them soon."""


@dataclass(slots=True)
class Past:
    """A sample in an order that chance made once, and how far it was gone through."""

    events: Batch
    packed: NDArray[np.uint8]
    """The same events, encoded once: they never change, and states are saved often."""
    place: int = 0
    """Of the next event to be asked about."""
    since: int = 0
    """New events since some were asked about."""

    @classmethod
    def of(cls, events: Batch) -> Past:
        """Of so many of these events as are kept."""
        order = np.random.default_rng(len(events)).permutation(len(events))[:KEPT_MAX]
        packed = _packed(events.rows(order))
        if len(packed) > KEPT_MAX_BYTES:
            order = order[: len(order) * KEPT_MAX_BYTES // len(packed)]
            packed = _packed(events.rows(order))
        return cls(events.rows(order), packed)

    def due(self, count: int) -> int:
        """How often old events are to be asked about after so many new ones."""
        times, self.since = divmod(self.since + count, EVERY)
        return times

    def take(self, times: int) -> tuple[Batch, int]:
        """The next ones, not all of them more than once, and for how many new ones each stands."""
        count = min(times * ASKED, len(self.events))
        if not count:
            return self.events, 0
        places = (self.place + np.arange(count)) % len(self.events)
        self.place = (self.place + count) % len(self.events)
        return self.events.rows(places), max(1, times * EVERY // count)

    def save(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        """Plain values and arrays."""
        return {"past": [self.place, self.since]}, {"past.events": self.packed}

    @classmethod
    def loaded(cls, values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Past | None:
        """What was saved; None where nothing was."""
        if "past.events" not in arrays:
            return None
        packed = arrays["past.events"].copy()
        return cls(decode(packed.tobytes()), packed, *values["past"])


def _packed(events: Batch) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(encode(events)), np.uint8)
