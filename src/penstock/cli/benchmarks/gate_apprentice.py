"""The apprentice on simulated streams: how often it graduates or is overtaken wrongly, and how soon it does rightly.

It is the decider of `penstock.gate.apprentice` that decides, with its defaults, looking after every step of 32 labels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np

from penstock.cli.benchmarks.gate_simulated import (
    ALPHA,
    STRETCHES,
    FalseAlarms,
    Note,
    Power,
    alarms,
    fixed_sample,
    power_row,
    said,
)
from penstock.cli.benchmarks.gate_streams import Array, Rivals
from penstock.gate.apprentice import ApprenticeWatch, Turn
from penstock.gate.rivals import Compared
from penstock.spec import Apprentice
from penstock.spec import Gate as GateSettings

STEP = 32
"""Labels between two looks."""
BEGINNING = Rivals(gain=-0.3, disagreement=0.5)
"""How a service does beside its incumbent while it knows next to nothing."""
BEGINNING_EVENTS = 700
LEAD = Rivals(gain=0.3, disagreement=0.5)
"""What lets one graduate at once."""
DISAGREEMENT = 0.1
STRETCH_MIN = 1_000
"""Events of a stretch at least: what a fixed-sample test takes says nothing of how long a beginning was."""


def beginner() -> ApprenticeWatch:
    """One that nothing was compared of."""
    return ApprenticeWatch(GateSettings(alpha=ALPHA, apprentice=Apprentice(of="incumbent")))


def turns(watch: ApprenticeWatch, gains: Array) -> Iterator[tuple[int, Turn]]:
    """What becomes of it, and after how many of these events."""
    for start in range(0, len(gains), STEP):
        part = gains[start : start + STEP]
        watch.take(Compared(own=np.maximum(-part, 0.0), incumbent=np.maximum(part, 0.0)))
        found = watch.judge(may_graduate=True)
        if found is not None:
            yield start + len(part), found.what


def experienced(rng: np.random.Generator) -> ApprenticeWatch:
    """One that has begun badly, and is an apprentice still."""
    watch = beginner()
    list(turns(watch, BEGINNING.differences(rng, BEGINNING_EVENTS)))
    return watch


def graduate(rng: np.random.Generator) -> ApprenticeWatch:
    """One that has just graduated."""
    watch = beginner()
    while watch.is_apprentice:
        list(turns(watch, LEAD.differences(rng, STEP)))
    return watch


# False alarms ---------------------------------------------------------------------------------------------------------

Made = Callable[[np.random.Generator], ApprenticeWatch]


def false_turns(streams: int, events: int, seed: int, note: Note) -> list[FalseAlarms]:
    """Services that are no better than their incumbents, and graduates that are no worse."""
    kinds: list[tuple[str, Made, float, Turn]] = [
        ("graduates: equal", lambda _: beginner(), 0.0, "graduated"),
        ("graduates: worse by 1 point", lambda _: beginner(), -0.01, "graduated"),
        (f"graduates: worse by 30 points for {BEGINNING_EVENTS} events, then equal", experienced, 0.0, "graduated"),
        ("is overtaken: equal", graduate, 0.0, "overtaken"),
    ]
    found = []
    for number, (named, made, gain, turn) in enumerate(kinds):
        rivals, wrong = Rivals(gain=gain, disagreement=DISAGREEMENT), 0
        for i in range(streams):
            rng = np.random.default_rng([seed, 7, number, i])
            wrong += _first(turns(made(rng), rivals.differences(rng, events)), turn) is not None
        what = f"an apprentice {named}, differs on {DISAGREEMENT:.0%}"
        found.append(alarms(what, wrong, streams, events, ALPHA))
        note(said(found[-1]))
    return found


def _first(found: Iterator[tuple[int, Turn]], turn: Turn) -> int | None:
    return next((events for events, what in found if what == turn), None)


# Power ----------------------------------------------------------------------------------------------------------------


def power(streams: int, seed: int, note: Note) -> list[Power]:
    """How many events it takes from when a service is better, or worse, by so much."""
    ways: list[tuple[str, Made, float, Turn]] = [
        ("a better apprentice graduates", lambda _: beginner(), 1.0, "graduated"),
        ("the same after a bad beginning", experienced, 1.0, "graduated"),
        ("a graduate that is worse is overtaken", graduate, -1.0, "overtaken"),
    ]
    found = []
    for points in (1, 2, 5):
        rivals = Rivals(gain=points / 100.0, disagreement=DISAGREEMENT)
        fixed = fixed_sample(rivals)
        for number, (what, made, sign, turn) in enumerate(ways):
            times = []
            for i in range(streams):
                rng = np.random.default_rng([seed, 8, number, points, i])
                watch = made(rng)
                drawn = Rivals(gain=sign * rivals.gain, disagreement=DISAGREEMENT)
                stretch = max(fixed, STRETCH_MIN)
                times.append(_until(watch, lambda n: drawn.differences(rng, n), stretch, turn))  # noqa: B023
            found.append(power_row(what, points, DISAGREEMENT, times, fixed))
            note(f"{what} by {points} points: {found[-1].median} events, fixed {fixed:,}")
    return found


def _until(watch: ApprenticeWatch, more: Callable[[int], Array], stretch: int, turn: Turn) -> float:
    """Events until then, in stretches; infinite where it never comes."""
    for number in range(STRETCHES):
        at = _first(turns(watch, more(stretch)), turn)
        if at is not None:
            return float(number * stretch + at)
    return math.inf
