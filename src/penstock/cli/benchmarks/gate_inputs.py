"""How often inputs that stay what they are seem to have left what a base was trained on, for `penstock bench gate`.

A base is trained on recent events and on a sample of the past that is alike over both classes, of which one comes nine
times as often as the other. Then as many events come as a shadow may see, and are looked at every 512.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from penstock.cli.benchmarks.gate_simulated import ALPHA, FalseAlarms, Note, alarms
from penstock.cli.benchmarks.gate_streams import Array
from penstock.events import Batch, Kind
from penstock.learn.inputs import seen_of
from penstock.learn.watched import LOOK_EVENTS, Inputs
from penstock.spec import ClassName, Feature, Spec
from penstock.spec import Gate as GateSettings

NUMBERS = 8
SPEC = Spec(
    name="inputs",
    task="binary",
    features={f"x{i}": Feature(type="number") for i in range(NUMBERS)} | {"city": Feature(type="category")},
)
RECENT, PAST = 4_096, 4_096
"""Events that the base is trained on."""
DRIFT_MAX = GateSettings().drift_max
"""The default."""
PERIOD = 4_096
"""Events of a day, where inputs follow one."""


def independent(rng: np.random.Generator, n: int) -> Array:
    """(n, NUMBERS) some normal, some with heavy tails, some whole numbers."""
    drawn = rng.standard_normal((n, NUMBERS))
    drawn[:, 3:5] = rng.standard_t(2.0, (n, 2))
    drawn[:, 5:] = rng.poisson(3.0, (n, NUMBERS - 5))
    return drawn


def lasting(events: int) -> Callable[[np.random.Generator, int], Array]:
    """The same distribution always, in which a number goes on to be like the last ones for so many events."""

    def drawn(rng: np.random.Generator, n: int) -> Array:
        kept = 1.0 - 1.0 / events
        shocks = rng.standard_normal((n, NUMBERS)) * np.sqrt(1.0 - kept * kept)
        found, last = np.empty((n, NUMBERS)), rng.standard_normal(NUMBERS)
        # x(t) = kept x(t - 1) + shock(t), as sums of so many events at once as powers have room for.
        for at in range(0, n, 16 * events):
            part = shocks[at : at + 16 * events]
            powers = kept ** np.arange(1.0, len(part) + 1)[:, None]
            found[at : at + len(part)] = powers * (last + np.cumsum(part / powers, axis=0))
            last = found[at + len(part) - 1]
        return found

    return drawn


def daily(rng: np.random.Generator, n: int) -> Array:
    """Means that go up and down by one deviation within a day."""
    return independent(rng, n) + np.sin(2 * np.pi * np.arange(n) / PERIOD)[:, None]


STREAMS: tuple[tuple[str, Callable[[np.random.Generator, int], Array], float | None], ...] = (
    ("inputs: independent events", independent, ALPHA),
    ("inputs: alike for 30 events", lasting(30), None),
    ("inputs: alike for 300 events", lasting(300), None),
    ("inputs: up and down within a day", daily, None),
)


def false_departures(streams: int, events: int, seed: int, note: Note) -> list[FalseAlarms]:
    """Inputs whose distribution never changes, or changes as it always has."""
    found = []
    for number, (what, drawn, allowed) in enumerate(STREAMS):
        wrong = sum(has_left(np.random.default_rng([seed, 9, number, i]), drawn, events) for i in range(streams))
        found.append(alarms(what, wrong, streams, events, allowed))
        note(f"{what}: {wrong} of {streams}")
    return found


def has_left(
    rng: np.random.Generator, drawn: Callable[[np.random.Generator, int], Array], events: int, shift: float = 0.0
) -> bool:
    """Whether any look finds that inputs have left what was trained on; ``shift`` is what is added to the first."""
    numbers = drawn(rng, PAST * 5 + RECENT + events)
    numbers[-events:, 0] += shift
    rare = rng.random(len(numbers)) < 0.1
    numbers[rare, 1] += 1.0
    past = np.concatenate([np.flatnonzero(part[: PAST * 5])[-PAST // 2 :] for part in (rare, ~rare)])
    cities = [f"city{i}" for i in rng.zipf(1.5, len(numbers)).tolist()]

    def batch(rows: np.ndarray[tuple[int], np.dtype[np.intp]]) -> Batch:
        return _batch(numbers[rows], [cities[row] for row in rows.tolist()])

    recent = np.arange(PAST * 5, PAST * 5 + RECENT)
    seen = seen_of(SPEC, batch(recent), batch(past))
    watched = Inputs(SPEC, lambda _: seen)
    for at in range(PAST * 5 + RECENT, len(numbers) - LOOK_EVENTS + 1, LOOK_EVENTS):
        if watched.take(batch(np.arange(at, at + LOOK_EVENTS)), None, ("base",)):
            departed = watched.newest("base")
            if departed is not None and departed.is_shown and departed.index > DRIFT_MAX:
                return True
    return False


def _batch(numbers: Array, cities: list[str]) -> Batch:
    n = len(numbers)
    return Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(n),
        ids=None,
        sources=None,
        numbers=numbers,
        vectors=(),
        strings=(list(cities),),
        labels=[ClassName("0")] * n,
        versions=None,
    )
