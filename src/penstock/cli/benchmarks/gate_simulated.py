"""The gate's deciders on simulated streams: how often they are wrong, how soon they are right, what they let through.

It is the deciders of `penstock.gate` that decide, looking after every single label.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import msgspec
import numpy as np

from penstock.cli.benchmarks.gate_streams import CHANGES, Array, Changing, Rivals, labels_in_order
from penstock.gate.interface import Evidence
from penstock.gate.rule import HarmGate
from penstock.gate.sequential import GainProcess, HarmProcess
from penstock.learn.drift import DriftDetector
from penstock.spec import Gate as GateSettings

ALPHA = 0.05
"""The gate's default."""
PERSONALIZER_EVENTS = 50_000
"""Azure Personalizer's apprentice and its automatic optimisation decide after so many events, whatever they say."""
POWER = 0.8
"""Of the fixed-sample test with which ours is compared: it is given the gain and the variance beforehand."""
NAIVE_FIRST = 30
"""Events before which the naive t-test is not looked at."""
NAIVE_WINDOW = 200
NAIVE_RISE = 0.1
"""The naive watch takes the change back when the moving average of the loss is so much above what it was before."""
HARMLESS = 2_000
"""Events without harm before a version that is served begins to do some."""
TAUGHT_EVENTS = 600
"""Events that the naive watch takes its usual loss from."""

Note = Callable[[str], None]


class FalseAlarms(msgspec.Struct, frozen=True, kw_only=True):
    """How many streams saw a wrong decision at any of their events."""

    what: str
    streams: int
    events: int
    """Of each stream; it was looked at after each of them."""
    wrong: int
    share: float
    high: float
    """Upper end of the 95 % interval of the share (Wilson)."""
    allowed: float | None
    """What the share may be; None where nothing is promised."""


class Power(msgspec.Struct, frozen=True, kw_only=True):
    """How soon what is true is seen."""

    what: str
    points: int
    """Points of accuracy by which the versions differ."""
    disagreement: float
    median: float | None
    """Events until half of the streams had decided; None where fewer did."""
    p90: float | None
    fixed: int
    """Events of a fixed-sample test that is told the gain, the variance and where it begins."""
    ratio: float | None
    """The median over that."""
    personalizer: int = PERSONALIZER_EVENTS


class LetThrough(msgspec.Struct, frozen=True, kw_only=True):
    """What users suffered: the sum of the losses beyond those of the last known good version."""

    change: str
    watch: str
    harm: float
    """The mean over the streams."""
    events: float | None
    """Median of the events from the change to its end; None where nothing ends it in half of the streams."""
    false_alarms: float
    """Share of the streams in which it was taken back before the change."""


def wilson_high(wrong: int, streams: int) -> float:
    """Upper end of the 95 % interval of a share (Wilson 1927)."""
    z = NormalDist().inv_cdf(0.975)
    share, ratio = wrong / streams, z * z / streams
    return (share + ratio / 2 + z * math.sqrt(share * (1 - share) / streams + ratio / (4 * streams))) / (1 + ratio)


def alarms(what: str, wrong: int, streams: int, events: int, allowed: float | None) -> FalseAlarms:
    return FalseAlarms(
        what=what,
        streams=streams,
        events=events,
        wrong=wrong,
        share=round(wrong / streams, 4),
        high=round(wilson_high(wrong, streams), 4),
        allowed=allowed,
    )


def first_at(values: Array, bound: float) -> int | None:
    """The place of the first value that reaches the bound."""
    place = int(np.argmax(values >= bound)) if len(values) else 0
    return place if len(values) and values[place] >= bound else None


# False alarms ---------------------------------------------------------------------------------------------------------


def false_harm(streams: int, events: int, seed: int, note: Note) -> list[FalseAlarms]:
    """Nothing does harm: versions that answer differently, and are right equally often."""
    found = []
    wrong = sum(_is_stopped(np.random.default_rng([seed, 1, i]), events) for i in range(streams))
    found.append(alarms("harm: whole gate, four versions that are equally good", wrong, streams, events, ALPHA))
    note(said(found[-1]))
    for disagreement in (0.02, 0.1, 0.5):
        rivals, long, wrong = Rivals(gain=0.0, disagreement=disagreement), 10 * events, 0
        for i in range(streams):
            rng = np.random.default_rng([seed, 2, int(1000 * disagreement), i])
            wrong += first_at(HarmProcess().course(rivals.differences(rng, long)), 1.0 / ALPHA) is not None
        what = f"harm: long comparison, versions differ on {disagreement:.0%} of the events"
        found.append(alarms(what, wrong, streams, long, ALPHA))
        note(said(found[-1]))
    return found


def _is_stopped(rng: np.random.Generator, events: int) -> bool:
    """Whether the gate holds anything back or rolls back, all versions being equally good."""
    gate, good, probation = HarmGate(GateSettings(alpha=ALPHA)), False, False
    order, classes = labels_in_order(rng, events)
    contested = rng.random(events) < np.asarray((0.3, 0.1))[classes]
    both = (rng.random(events) < 0.1).astype(np.float64)
    losses = [np.where(contested, (rng.random(events) < 0.5).astype(np.float64), both)[order] for _ in range(3)]
    for at in range(events):
        served, of_good, of_probation = (of_one[at : at + 1] for of_one in losses)
        verdict = gate.judge(
            Evidence(
                candidate=served,
                served=served,
                good=of_good if good else None,
                sources=None,
                finite=True,
                jump=0.0,
                probation=of_probation if probation else None,
            )
        )
        if verdict.action != "publish":
            return True
        good, probation = good or verdict.good, probation or verdict.probation
    return False


def false_promotion(streams: int, events: int, seed: int, note: Note) -> list[FalseAlarms]:
    """Newcomers that are no better than what is served; beside ours a t-test that is looked at as often."""
    rivals = [Rivals(gain=0.0, disagreement=share) for share in (0.02, 0.1, 0.5)]
    rivals += [Rivals(gain=-0.01, disagreement=0.1)]
    kinds: list[tuple[str, Callable[[np.random.Generator], Array]]] = []
    for one in rivals:
        told = "equal" if not one.gain else f"worse by {-100 * one.gain:.0f} point"
        named = f"{told}, differs on {one.disagreement:.0%}"
        kinds.append((named, lambda rng, one=one: one.differences(rng, events)))  # type: ignore[misc]
    kinds.append(("first worse by 5 points, then better by as much", lambda rng: _turning(rng, events)))
    found = []
    for number, (named, drawn) in enumerate(kinds):
        ours = naive = 0
        for i in range(streams):
            x = drawn(np.random.default_rng([seed, 3, number, i]))
            ours += first_at(GainProcess().course(x), 1.0 / ALPHA) is not None
            naive += first_at(_t_values(x), NormalDist().inv_cdf(1.0 - ALPHA)) is not None
        found.append(alarms(f"promotion: {named}", ours, streams, events, ALPHA))
        note(said(found[-1]))
        found.append(alarms(f"t-test after every event: {named}", naive, streams, events, None))
        note(said(found[-1]))
    return found


def _turning(rng: np.random.Generator, events: int) -> Array:
    """Never better on the whole so far, though it is for half of the time."""
    first = Rivals(gain=-0.05, disagreement=0.2).differences(rng, events // 2)
    return np.concatenate([first, Rivals(gain=0.05, disagreement=0.2).differences(rng, events - events // 2)])


def _t_values(x: Array) -> Array:
    """After each event Student's t of all so far."""
    n = np.arange(1.0, len(x) + 1.0)
    mean = np.cumsum(x) / n
    variance = np.maximum(np.cumsum(x * x) / n - mean**2, 1e-12) * n / np.maximum(n - 1.0, 1.0)
    t: Array = mean / np.sqrt(variance / n)
    t[:NAIVE_FIRST] = -np.inf
    return t


def false_drift(streams: int, events: int, seed: int, note: Note) -> list[FalseAlarms]:
    """Rises of the loss that the detector sees in streams whose loss does not rise."""
    found = []
    for rate in (0.05, 0.2, 0.5):
        wrong = 0
        for i in range(streams):
            rng = np.random.default_rng([seed, 4, int(100 * rate), i])
            wrong += DriftDetector().take((rng.random(events) < rate).astype(np.float64)) is not None
        found.append(alarms(f"drift: errors at a constant rate of {rate:.0%}", wrong, streams, events, None))
        note(said(found[-1]))
    return found


def said(row: FalseAlarms) -> str:
    """A row as it is told while others are measured."""
    return f"{row.what}: {row.wrong} of {row.streams:,} streams of {row.events:,} events"


# Power ----------------------------------------------------------------------------------------------------------------


def power(streams: int, seed: int, note: Note) -> list[Power]:
    """How many events a difference takes to be seen. A median that is not reached within a few times the fixed test's
    events is not looked for any further."""
    found = []
    for points in (1, 2, 5):
        for disagreement in (0.1, 0.3):
            gain = points / 100.0
            fixed = fixed_sample(Rivals(gain=gain, disagreement=disagreement))
            for number, (what, seen) in enumerate(_WAYS.items()):
                times = [
                    seen(
                        np.random.default_rng([seed, 5, number, points, int(10 * disagreement), i]), gain, disagreement
                    )
                    for i in range(streams)
                ]
                found.append(power_row(what, points, disagreement, times, fixed))
                note(f"{what} by {points} points of {disagreement:.0%}: {found[-1].median} events, fixed {fixed:,}")
    return found


def fixed_sample(rivals: Rivals) -> int:
    """n = (z_alpha + z_power)^2 v / d^2."""
    z = NormalDist().inv_cdf(1.0 - ALPHA) + NormalDist().inv_cdf(POWER)
    return math.ceil(z * z * rivals.variance / rivals.gain**2)


def _promoted(rng: np.random.Generator, gain: float, disagreement: float) -> float:
    rivals = Rivals(gain=gain, disagreement=disagreement)
    process = GainProcess()
    return _until(lambda n: process.course(rivals.differences(rng, n)), fixed_sample(rivals))


def _given_up(rng: np.random.Generator, gain: float, disagreement: float) -> float:
    rivals = Rivals(gain=-gain, disagreement=disagreement)
    process = GainProcess()
    return _until(lambda n: process.course(-rivals.differences(rng, n)), fixed_sample(rivals))


def _rolled_back(rng: np.random.Generator, gain: float, disagreement: float) -> float:
    """Counted from where the harm begins, after HARMLESS events that did none."""
    rivals, process = Rivals(gain=-gain, disagreement=disagreement), HarmProcess()
    process.course(Rivals(gain=0.0, disagreement=disagreement).differences(rng, HARMLESS))
    return _until(lambda n: process.course(-rivals.differences(rng, n)), fixed_sample(rivals))


STRETCHES = 8
"""Times the fixed test's events that a decision is waited for."""


def _until(course: Callable[[int], Array], stretch: int) -> float:
    """Events until the evidence is enough, in stretches; infinite where it never is."""
    for number in range(STRETCHES):
        place = first_at(course(stretch), 1.0 / ALPHA)
        if place is not None:
            return float(number * stretch + place + 1)
    return math.inf


_WAYS = {
    "a better shadow is promoted": _promoted,
    "a worse shadow is given up": _given_up,
    "a worse version that is served is rolled back": _rolled_back,
}


def power_row(what: str, points: int, disagreement: float, times: list[float], fixed: int) -> Power:
    """The row of streams that took so many events each."""
    half, most = np.quantile(times, [0.5, 0.9], method="higher").tolist()
    return Power(
        what=what,
        points=points,
        disagreement=disagreement,
        median=half if math.isfinite(half) else None,
        p90=most if math.isfinite(most) else None,
        fixed=fixed,
        ratio=round(half / fixed, 2) if math.isfinite(half) else None,
    )


# Harm that is let through ---------------------------------------------------------------------------------------------


def let_through(streams: int, seed: int, note: Note) -> list[LetThrough]:
    """Each change beside no gate at all and beside a bound on the moving average of the loss."""
    found = []
    for number, change in enumerate(CHANGES):
        expected = np.concatenate([[0.0], np.cumsum(change.expected())])
        for watch, ended in _WATCHES.items():
            harms, lengths, early = [], [], 0
            for i in range(streams):
                rng = np.random.default_rng([seed, 6, number, i])
                at = ended(change, rng)
                if at < change.before:
                    early += 1
                    continue
                harms.append(float(np.interp(at, np.arange(len(expected)), expected)))
                lengths.append(at - change.before if at < change.before + change.after else math.inf)
            half = float(np.quantile(lengths, 0.5, method="higher")) if lengths else math.inf
            row = LetThrough(
                change=change.name,
                watch=watch,
                harm=round(float(np.mean(harms)), 1) if harms else 0.0,
                events=round(half, 1) if math.isfinite(half) else None,
                false_alarms=round(early / streams, 4),
            )
            found.append(row)
            note(f"{change.name}, {watch}: harm {row.harm}, over after {row.events} events")
    return found


def _without(change: Changing, rng: np.random.Generator) -> float:
    return float(change.before + change.after)


def _gated(change: Changing, rng: np.random.Generator) -> float:
    """How many events had come when the evidence was enough."""
    served, good, came = change.drawn(rng)
    place = first_at(HarmProcess().course(served - good), 1.0 / ALPHA)
    return float(change.before + change.after if place is None else came[place])


def _averaged(change: Changing, rng: np.random.Generator) -> float:
    served, _, came = change.drawn(rng)
    usual = float(served[:TAUGHT_EVENTS].mean())
    sums = np.concatenate([[0.0], np.cumsum(served)])
    moving = (sums[NAIVE_WINDOW:] - sums[:-NAIVE_WINDOW]) / NAIVE_WINDOW
    # The first average behind what the usual loss was taken from.
    place = first_at(moving[TAUGHT_EVENTS:], usual + NAIVE_RISE)
    last = TAUGHT_EVENTS + NAIVE_WINDOW - 1
    return float(change.before + change.after if place is None else came[last + place])


_WATCHES: dict[str, Callable[[Changing, np.random.Generator], float]] = {
    "the gate": _gated,
    "moving average": _averaged,
    "none": _without,
}
