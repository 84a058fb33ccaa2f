"""How often what is served seems to have a fault beside the last known good version, for `penstock bench gate`: the two
answer differently, are right equally often, and equally sure of it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from penstock.cli.benchmarks.gate_simulated import ALPHA, FalseAlarms, Note, alarms
from penstock.cli.benchmarks.gate_streams import Array
from penstock.gate.guards import Opinion
from penstock.gate.interface import Answers
from penstock.gate.served import ServedWatch
from penstock.publish.said import LOOK_EVENTS
from penstock.spec import Gate as GateSettings

SHARES = (0.4, 0.3, 0.15, 0.1, 0.05)
"""Of the classes."""
SAME = 0.7
"""Share of the events to which both give the same answer whatever happens."""
TURN_EVENTS = 2_000
"""Between two turns of a stream that turns."""

Surplus = Callable[[int], tuple[Array, Array]]
"""Of n events, (n,) how much surer than right the last known good version is, and what is served."""


def none(n: int) -> tuple[Array, Array]:
    """Both are as sure as they are right."""
    return np.zeros(n), np.zeros(n)


def a_tenth(n: int) -> tuple[Array, Array]:
    """Both are too sure of themselves."""
    return np.full(n, 0.1), np.full(n, 0.1)


def turning(n: int) -> tuple[Array, Array]:
    """After each turn both are wrong of what they were sure of, and what is served learns it sooner."""
    since = np.arange(n) % TURN_EVENTS
    return 0.4 * 0.5 ** (since / 600.0), 0.4 * 0.5 ** (since / 150.0)


STREAMS: tuple[tuple[str, Surplus], ...] = (
    ("answers: as sure as right", none),
    ("answers: both surer by a tenth", a_tenth),
    ("answers: a stream that turns", turning),
)


def false_faults(streams: int, events: int, seed: int, note: Note) -> list[FalseAlarms]:
    """Nothing is wrong with what is served that was not wrong with the other."""
    found = []
    for number, (what, surplus) in enumerate(STREAMS):
        wrong = sum(has_fault(np.random.default_rng([seed, 11, number, i]), surplus, events) for i in range(streams))
        found.append(alarms(what, wrong, streams, events, ALPHA))
        note(f"{what}: {wrong} of {streams}")
    return found


def has_fault(rng: np.random.Generator, surplus: Surplus, events: int, lost: str = "") -> bool:
    """Whether any look finds a fault; of a ``lost`` class what is served gives no answer."""
    watch = ServedWatch(GateSettings())
    classes = np.array([f"c{i}" for i in range(len(SHARES))])
    labels = rng.choice(classes, events, p=SHARES)
    right = rng.beta(4.0, 1.5, events)
    both = rng.random(events)
    said: list[Opinion] = []
    for extra in surplus(events):
        luck = np.where(rng.random(events) < SAME, both, rng.random(events))
        answered = np.where(luck < right - extra, labels, rng.choice(classes, events, p=SHARES))
        if said and lost:
            answered = np.where(answered == lost, classes[0], answered)
        # A wrong guess is right at times, too.
        sure = np.clip(right - extra, 0.0, 1.0)
        sure = sure + (1.0 - sure) * np.array(SHARES)[np.searchsorted(classes, labels)]
        said.append(Opinion(answered.tolist(), np.clip(sure + extra, 0.0, 1.0)))
    for at in range(0, events - LOOK_EVENTS + 1, LOOK_EVENTS):
        rows = slice(at, at + LOOK_EVENTS)
        good, served = (Opinion(one.said[rows], one.chances[rows]) for one in said)
        if watch.look(Answers(labels[rows].tolist(), good, served)):
            return True
    return False
