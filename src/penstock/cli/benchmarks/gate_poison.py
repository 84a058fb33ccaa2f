"""Sources of labels: one that lies, which is to be found out, and one that is merely different, which is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.cli.benchmarks.gate_real import COLUMNS, STEEPNESS
from penstock.cli.benchmarks.gate_service import Followed, follow, right_of
from penstock.cli.benchmarks.learn_streams import Stream, make
from penstock.events import Batch
from penstock.learn.interface import Block, Predictor
from penstock.publish.succession import Succession
from penstock.spec import ClassName, Feature

SOURCES = 5
POISONED_FROM, POISONED_UNTIL = 0.4, 0.6
"""Shares of the stream between which one source of the five, a fifth of the stream, sends wrong labels alone."""
HELD_OUT = 1.0 / 3.0
"""Share of the stream that nobody learns, and that is clean."""
WINDOW = 1_000
"""Held-out events in a row over which accuracy is taken."""
AHEAD_EVERY, AHEAD = 512, 3_000
"""Events between two looks ahead, at the held-out ones among so many that come next."""
HONEST_EVENTS, DIFFERENT_FROM = 1_500, 800
"""Events of a stream with an honest source, and from which on that is different."""
FAR = 3.0
"""Deviations by which inputs from elsewhere are elsewhere."""
NOISE = 0.2
"""Share of a careless source's labels that are wrong."""

Note = Callable[[str], None]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Poisoned(msgspec.Struct, frozen=True, kw_only=True):
    """A source that sends wrong labels for a while."""

    stream: str
    events: int
    poisoned: int
    """Events with a wrong label."""
    worst_fall: float
    """The most by which accuracy on WINDOW clean held-out events in a row, asked when they came, fell below that of the
    same run without wrong labels."""
    worst_fall_ungated: float
    worst_fall_silent: float
    """Of a run in which the source sends nothing while it would lie: what nobody can avoid who does not believe it."""
    mean_fall: float
    """The same over all held-out events that came while it lied."""
    mean_fall_ungated: float
    mean_fall_silent: float
    worst_ahead: float
    """The most by which the version of a moment was less often right on the held-out events among the next AHEAD. In a
    stream that changes this varies as much between any two runs."""
    worst_ahead_ungated: float
    found_after: int | None
    """Events, those of all sources, from the first wrong label until what it taught was taken out."""
    aside: dict[str, int]
    """Events that were set aside or taken out, by source."""
    named: bool
    """Whether a receipt's verdict names the source."""


class Honest(msgspec.Struct, frozen=True, kw_only=True):
    """A source that tells the truth, and is different from all others."""

    source: str
    streams: int
    events: int
    aside: int
    """Streams in which it was not believed at some time."""
    share: float
    other: int
    """Streams in which another source was not."""


# One that lies --------------------------------------------------------------------------------------------------------


@dataclass
class _Run:
    """How often held-out events were answered right."""

    at: list[int]
    """Events learned before each held-out one."""
    right: list[bool]
    ahead: list[float]
    followed: Followed | None = None

    def fall(self, below: _Run) -> Floats:
        """By how much accuracy over WINDOW events in a row is less than in the other run."""
        difference = np.array(below.right, np.float64) - np.array(self.right, np.float64)
        sums = np.concatenate([[0.0], np.cumsum(difference)])
        window = min(WINDOW, len(difference))
        found: Floats = (sums[window:] - sums[:-window]) / window
        return found

    def mean_fall(self, below: _Run, start: float, end: float) -> float:
        """The same over all that came between these events."""
        inside = (np.array(self.at) >= start) & (np.array(self.at) < end)
        return float(np.array(below.right)[inside].mean() - np.array(self.right)[inside].mean())


def poisoned(stream: Stream, note: Note) -> Poisoned:
    """One source of five turns its labels into those of the next class for a fifth of the stream."""
    total = len(stream.events)
    is_held = np.random.default_rng(9).random(total) < HELD_OUT
    learned = np.flatnonzero(~is_held)
    clean = _named(stream.events.rows(learned))
    wrong, is_wrong = _turned(stream, clean)
    runs = {
        (batch_name, gated): _asked(stream, learned, batch, keep, gated=gated)
        for batch_name, batch, keep, gates in (
            ("clean", clean, None, (True, False)),
            ("wrong", wrong, None, (True, False)),
            ("silent", clean, ~is_wrong, (True,)),
        )
        for gated in gates
    }
    start, end = POISONED_FROM * len(clean), POISONED_UNTIL * len(clean)
    of_clean, of_clean_ungated = runs["clean", True], runs["clean", False]
    run, ungated, silent = runs["wrong", True], runs["wrong", False], runs["silent", True]
    assert run.followed is not None
    taken_out = [at for at, sources in run.followed.taken_out if "s0" in sources]
    row = Poisoned(
        stream=stream.name,
        events=len(clean),
        poisoned=int(is_wrong.sum()),
        worst_fall=round(float(run.fall(of_clean).max()), 4),
        worst_fall_ungated=round(float(ungated.fall(of_clean_ungated).max()), 4),
        worst_fall_silent=round(float(silent.fall(of_clean).max()), 4),
        mean_fall=round(run.mean_fall(of_clean, start, end), 4),
        mean_fall_ungated=round(ungated.mean_fall(of_clean_ungated, start, end), 4),
        mean_fall_silent=round(silent.mean_fall(of_clean, start, end), 4),
        worst_ahead=round(float((np.array(of_clean.ahead) - run.ahead).max()), 4),
        worst_ahead_ungated=round(float((np.array(of_clean_ungated.ahead) - ungated.ahead).max()), 4),
        found_after=taken_out[0] - int(np.flatnonzero(is_wrong)[0]) if taken_out else None,
        aside=run.followed.aside,
        named=any("'s0'" in verdict for verdict in run.followed.verdicts),
    )
    note(
        f"{row.stream}, poisoned: falls by {row.worst_fall:.1%} with the gate, {row.worst_fall_ungated:.1%} without, "
        f"{row.worst_fall_silent:.1%} where the source is silent; found after {row.found_after} events; "
        f"aside {row.aside}"
    )
    return row


def _asked(stream: Stream, learned: NDArray[np.intp], batch: Batch, keep: Flags | None, *, gated: bool) -> _Run:
    """Learn the events, all that are to be kept, and ask each version about the held-out ones that come before the
    next."""
    total = len(stream.events)
    places = learned if keep is None else learned[keep]
    held = np.setdiff1d(np.arange(total), learned)
    run = _Run([], [], [])
    looks = [0, 0]
    """Up to which place held-out events were asked about, and how many looks ahead there were."""
    before: list[Block] = []

    def look(done: int, block: Block, predictor: Callable[[Block], Predictor], _: Succession) -> None:
        upto = int(places[done - 1])
        came = held[(held >= looks[0]) & (held < upto)]
        if before and len(came):
            run.right += right_of(before[0], predictor, stream.events.rows(came)).tolist()
            run.at += np.searchsorted(learned, came).tolist()
        elif len(came):
            run.right, run.at = [False] * len(came), np.searchsorted(learned, came).tolist()
        looks[0] = max(upto, looks[0])
        before[:] = [block]
        while looks[1] * AHEAD_EVERY < np.searchsorted(learned, upto, "right") - AHEAD_EVERY:
            looks[1] += 1
            now = min(int(learned[looks[1] * AHEAD_EVERY - 1]), total - AHEAD)
            coming = held[(held > now) & (held <= now + AHEAD)]
            run.ahead.append(float(right_of(block, predictor, stream.events.rows(coming)).mean()))

    events = batch if keep is None else batch.rows(np.flatnonzero(keep))
    run.followed = follow(stream.spec, [events], gated=gated, look=look)
    return run


def _named(events: Batch) -> Batch:
    """The events with sources that take turns in no even order."""
    drawn = np.random.default_rng(11).integers(0, SOURCES, len(events))
    return replace(events, sources=[f"s{source}" for source in drawn.tolist()])


def _turned(stream: Stream, named: Batch) -> tuple[Batch, Flags]:
    assert named.sources is not None
    n, classes = len(named), stream.classes
    place = np.arange(n) / n
    inside = (place >= POISONED_FROM) & (place < POISONED_UNTIL)
    is_wrong = inside & (np.array(named.sources) == "s0")
    following = {name: classes[(at + 1) % len(classes)] for at, name in enumerate(classes)}
    labels = [
        following[name] if is_bad else name
        for name, is_bad in zip(list(named.labels or ()), is_wrong.tolist(), strict=True)
    ]
    return replace(named, labels=labels), is_wrong


# One that is merely different -----------------------------------------------------------------------------------------


def _careless(numbers: Floats, labels: Flags, rng: np.random.Generator) -> tuple[Floats, Flags]:
    return numbers, labels ^ (rng.random(len(labels)) < NOISE)


def _elsewhere(numbers: Floats, labels: Flags, rng: np.random.Generator) -> tuple[Floats, Flags]:
    """Its inputs come from a corner where no others do; the classes follow the same rule there."""
    numbers = numbers + FAR * np.eye(COLUMNS)[rng.integers(COLUMNS)]
    return numbers, _classes(numbers, _direction(), rng)


def _one_sided(numbers: Floats, labels: Flags, rng: np.random.Generator) -> tuple[Floats, Flags]:
    """Hardly ever anything but the second class."""
    direction = _direction()
    away = numbers @ direction < 0.0
    numbers = numbers - np.outer(away * 2.0 * (numbers @ direction), direction / (direction @ direction))
    return numbers, _classes(numbers, direction, rng)


def _otherwise(numbers: Floats, labels: Flags, rng: np.random.Generator) -> tuple[Floats, Flags]:
    """From a corner where no others come from, and where the classes follow a rule of their own."""
    numbers = numbers + FAR * np.eye(COLUMNS)[rng.integers(COLUMNS)]
    return numbers, _classes(numbers, -_direction(), rng)


KINDS = {
    "careless: a fifth of its labels is wrong": _careless,
    "elsewhere: inputs that others never send": _elsewhere,
    "one-sided: almost one class alone": _one_sided,
    "elsewhere and otherwise: the classes are the other way round there": _otherwise,
}


def honest(streams: int, seed: int, note: Note) -> list[Honest]:
    """How often a source is not believed that is different from the others from some event on, and does not lie."""
    found = []
    for number, (kind, made) in enumerate(KINDS.items()):
        aside = other = 0
        for i in range(streams):
            rng = np.random.default_rng([seed, 8, number, i])
            sources = rng.integers(0, SOURCES, HONEST_EVENTS)
            numbers = rng.normal(size=(HONEST_EVENTS, COLUMNS))
            labels = _classes(numbers, _direction(), rng)
            own = (sources == 0) & (np.arange(HONEST_EVENTS) >= DIFFERENT_FROM)
            numbers[own], labels[own] = made(numbers[own], labels[own], rng)
            features = {f"x{j}": Feature(type="number") for j in range(COLUMNS)}
            names = [ClassName("1" if is_one else "0") for is_one in labels.tolist()]
            stream = make("honest", features, numbers, names)
            events = replace(stream.events, sources=[f"s{source}" for source in sources.tolist()])
            run = follow(stream.spec, [events], gated=True)
            aside += bool(run.aside.get("s0"))
            other += any(run.aside.get(f"s{source}") for source in range(1, SOURCES))
        row = Honest(
            source=kind,
            streams=streams,
            events=HONEST_EVENTS,
            aside=aside,
            share=round(aside / streams, 4),
            other=other,
        )
        found.append(row)
        note(f"{kind}: not believed in {aside} of {streams} streams, another source in {other}")
    return found


def _direction() -> Floats:
    direction = np.random.default_rng(7).normal(size=COLUMNS)
    return direction * (STEEPNESS / np.linalg.norm(direction))


def _classes(numbers: Floats, direction: Floats, rng: np.random.Generator) -> Flags:
    found: Flags = rng.random(len(numbers)) < 1.0 / (1.0 + np.exp(-numbers @ direction))
    return found
