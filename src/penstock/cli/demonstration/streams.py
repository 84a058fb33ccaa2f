"""The demo's two streams, the same for the same seed: digits class by class, and a water pipeline's hourly flow."""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from penstock.errors import ExtraMissing

PIXELS = 64
SIDE = 8
PHASES = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
"""Which digits arrive together."""
PASSES = (3, 3, 6, 3, 3)
"""How often each phase sends its digits. The middle one is twice as long: wrong labels come in its middle, and what
becomes of them is to be seen while nothing else changes."""
HELD_OUT_EVERY = 5
"""Of each class, every fifth digit in the order of the collection is asked about and never sent: the same for all
seeds, and of all writers."""
SHIFT_MAX = 0.5
"""Pixels by which the later passes move an image at most, sideways and up or down."""


# Digits ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Digit:
    """One image with its label, as it is sent."""

    id: str
    phase: int
    """Its place in PHASES."""
    pixels: NDArray[np.float32]
    """(64,) grey values from 0 to 16, row by row."""
    label: int


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The digits that are only ever asked about."""

    pixels: NDArray[np.float32]
    """(n, 64)"""
    labels: NDArray[np.int64]
    """(n,)"""

    def seen(self, phase: int) -> NDArray[np.intp]:
        """The places of the digits whose class has arrived by this phase."""
        return np.flatnonzero(np.isin(self.labels, [label for pair in PHASES[: phase + 1] for label in pair]))


@dataclass(frozen=True, slots=True)
class DigitStream:
    events: tuple[Digit, ...]
    """In the order in which they are sent."""
    wrong: tuple[Digit, ...]
    """The burst: digits of the classes seen by the middle phase, each with another such class as its label."""
    held_out: HeldOut

    def phases(self) -> list[int]:
        """How many digits each phase sends."""
        return [sum(event.phase == phase for event in self.events) for phase in range(len(PHASES))]


def digit_stream(*, seed: int, wrong: int, passes: Sequence[int] = PASSES) -> DigitStream:
    """Handwritten digits, two classes at a time; each pass of a phase shuffles its digits anew.

    The first pass sends the images as they are, the later ones moved a little, so that no image is just repeated.
    ``wrong`` is the length of the burst with wrong labels."""
    pixels, labels = _load_digits()
    random = np.random.default_rng(seed)
    of_class = [np.flatnonzero(labels == label) for label in range(10)]
    held = np.concatenate([places[::HELD_OUT_EVERY] for places in of_class])
    sent = [np.delete(places, np.s_[::HELD_OUT_EVERY]) for places in of_class]
    events: list[Digit] = []
    for phase, pair in enumerate(PHASES):
        places = np.concatenate([sent[label] for label in pair])
        for number in range(passes[phase]):
            for place in random.permutation(places):
                moved = shifted(pixels[place], *random.uniform(-SHIFT_MAX, SHIFT_MAX, 2)) if number else pixels[place]
                events.append(Digit(f"digit-{len(events)}", phase, moved, int(labels[place])))
    middle = len(PHASES) // 2
    known = [label for pair in PHASES[: middle + 1] for label in pair]
    burst = []
    for number, place in enumerate(random.choice(np.concatenate([sent[label] for label in known]), wrong)):
        others = [label for label in known if label != labels[place]]
        burst.append(Digit(f"wrong-{number}", middle, pixels[place], int(random.choice(others))))
    return DigitStream(tuple(events), tuple(burst), HeldOut(pixels[held], labels[held]))


def shifted(pixels: NDArray[np.float32], right: float, down: float) -> NDArray[np.float32]:
    """An image (64,) moved by at most a pixel each way, interpolated linearly; beyond the edges it is empty."""
    around = np.pad(pixels.reshape(SIDE, SIDE), 1)
    moved = _moved(_moved(around, down).T, right).T
    return np.ascontiguousarray(moved[1:-1, 1:-1]).reshape(PIXELS)


def _moved(rows: NDArray[np.float32], by: float) -> NDArray[np.float32]:
    """Rows moved downwards by a part of a row, or upwards where it is negative."""
    neighbour = np.roll(rows, 1 if by > 0 else -1, axis=0)
    mixed: NDArray[np.float32] = ((1.0 - abs(by)) * rows + abs(by) * neighbour).astype(np.float32)
    return mixed


def _load_digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ExtraMissing(what="The demo", package="scikit-learn", extra="demo") from error
    bunch = load_digits()
    return bunch.data.astype(np.float32), bunch.target.astype(np.int64)


# Flow -----------------------------------------------------------------------------------------------------------------

HOUR = datetime.timedelta(hours=1)
LAGS_H = (("last_change", 1, 2), ("change_before", 2, 3), ("above_yesterday", 1, 25), ("change_yesterday", 24, 25))
"""Features that are differences of the flow so many hours ago: the last two changes, how far the last value is above
the same hour of the day before, and how the flow went on from there."""
CHANGE_MAX = 2.0
"""Litres a second. A change beyond it (3 hours in 100, the pipeline being shut or opened) is sent as this much, so
that repairs do not teach the model what an ordinary hour is like. Errors are measured against the true flow."""


@dataclass(frozen=True, slots=True)
class FlowHour:
    """One hour as it is before it is known: what the model is asked, and the answer that follows. Litres a second."""

    time: datetime.datetime
    features: dict[str, float | str]
    """Those that need an hour which the record has no value for are absent."""
    last: float
    """The newest known flow: the baseline's answer."""
    actual: float

    @property
    def change(self) -> float:
        """The label: how much the flow changes from the newest known value, at most CHANGE_MAX either way."""
        return min(max(self.actual - self.last, -CHANGE_MAX), CHANGE_MAX)


def flow_stream() -> tuple[FlowHour, ...]:
    """River's record of the hourly water flow of a pipeline in spring 2022, 1,267 hours of it, ten gaps included."""
    try:
        from river.datasets import WaterFlow
    except ImportError as error:
        raise ExtraMissing(what="The demo", package="river", extra="demo") from error
    return hours_ahead((record["Time"], flow) for record, flow in WaterFlow())  # type: ignore[no-untyped-call]


def hours_ahead(record: Iterable[tuple[datetime.datetime, float]]) -> tuple[FlowHour, ...]:
    """Each hour but the first, with what was known before it.

    Times carry their zone, so that a change of the clocks neither repeats nor skips an hour; a lag is counted in hours
    of time, not in rows, so that a gap in the record makes features missing instead of wrong."""
    rows = list(record)
    known = {time.astimezone(datetime.UTC): flow for time, flow in rows}
    hours = []
    for (_, last), (time, actual) in pairwise(rows):
        now = time.astimezone(datetime.UTC)
        flow = {lag: known.get(now - lag * HOUR) for lag in (1, 2, 3, 24, 25)}
        angle = 2 * math.pi * time.hour / 24
        features: dict[str, float | str] = {
            "hour": f"{time.hour:02d}",
            "day_sin": math.sin(angle),
            "day_cos": math.cos(angle),
        }
        for name, later, earlier in LAGS_H:
            after, before = flow[later], flow[earlier]
            if after is not None and before is not None:
                features[name] = round(after - before, 4)
        hours.append(FlowHour(time, features, last, actual))
    return tuple(hours)
