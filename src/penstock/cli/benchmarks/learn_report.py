"""What `penstock bench learn` found, as one struct for programs and as tables for people."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec

from penstock.cli.benchmarks.learn_streams import WITHOUT_DRIFT
from penstock.cli.benchmarks.learners import NO_CHANGE, OURS
from penstock.cli.benchmarks.machine import Machine
from penstock.cli.benchmarks.trial import Bounds, Trial

POINTS = 0.02
"""Of accuracy: a learner that is no more than this behind ours is as good, and its speed is compared."""
COMPARABLE_EVENTS = 1_000
"""Of a prefix: on fewer, the noise of an accuracy of 0.8 is more than two points (1.3 is its standard error)."""

CLOSE = 0.005
"""Of accuracy: what counts as equal to the best."""
ECE_MAX = 0.03
SPEED_RATIO = 20.0

TableRow = dict[str, object]


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One learner on one stream."""

    model: str
    accuracy: float | None
    log_loss: float | None
    ece: float | None
    kappa_temporal: float | None
    events_per_s: float | None
    memory_mb: float | None
    events: int | None = None
    """Where it got the first ones only."""
    note: str = ""
    """Why there is no result, or less than was meant to be."""


class StreamReport(msgspec.Struct, frozen=True, kw_only=True):
    """All learners on one stream."""

    name: str
    step: int
    rows: list[Row]


class StreamAbout(msgspec.Struct, frozen=True, kw_only=True):
    """What a stream is."""

    name: str
    events: int
    features: int
    classes: int
    task: str


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that could not be had."""

    name: str
    reason: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """Ours against everyone else on one stream, each on the events that both had."""

    name: str
    step: int
    events: int
    accuracy: float | None
    """Ours, on all of them."""
    best_peer: str | None
    """The one that ours is least ahead of, or most behind."""
    best_peer_events: int | None
    best_peer_accuracy: float | None
    accuracy_there: float | None
    """Ours, on those events."""
    difference: float | None
    """Ours less theirs."""
    fastest_peer: str | None
    """Of those that are within two points of ours; no-change is not meant."""
    speed_ratio: float | None
    """Our events a second divided by theirs."""


class Aim(msgspec.Struct, frozen=True, kw_only=True):
    """Something that ours is meant to reach, on each stream in each step, or on a share of them."""

    aim: str
    reached: int
    of: int
    """Streams in steps for which it can be told."""
    is_met: bool
    missed: list[str] = []
    """Where it is not reached, by name and step, with the value there."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, in the order in which it is read."""

    streams: list[StreamReport]
    machine: Machine
    summary: list[Comparison]
    aims: list[Aim]
    about: list[StreamAbout]
    left_out: list[LeftOut]
    learners: dict[str, str]
    """What was run under each name."""
    bounds: dict[str, Bounds]
    """Events and seconds that a learner had on a stream."""
    command: str
    date: str
    penstock: str
    load_average: list[float]
    """Of one minute, before and after: beside other work, speeds are lower than this machine's."""
    seconds: float


class Contender(NamedTuple):
    """A peer and what came of it."""

    name: str
    trial: Trial


def row(name: str, trial: Trial, total: int) -> Row:
    """A trial as it is reported."""
    scores = trial.scores
    return Row(
        model=name,
        accuracy=None if scores is None else round(scores.accuracy, 4),
        log_loss=None if scores is None else round(scores.log_loss, 4),
        ece=None if scores is None else round(scores.ece, 4),
        kappa_temporal=None if scores is None or scores.kappa_temporal is None else round(scores.kappa_temporal, 4),
        events_per_s=None if trial.events_per_s is None else round(trial.events_per_s, 1),
        memory_mb=None if trial.memory_mb is None else round(trial.memory_mb, 2),
        events=trial.events if scores is not None and trial.events < total else None,
        note=trial.ended,
    )


def compare(name: str, step: int, total: int, ours: Trial, peers: list[Contender]) -> Comparison:
    """Ours against each peer on the first events that both had, if these are enough to tell anything."""
    right = ours.hits
    best: tuple[float, Contender, float, int] | None = None
    fastest: Contender | None = None
    for peer in peers:
        shared = min(ours.events, peer.trial.events)
        if shared < min(COMPARABLE_EVENTS, total):
            continue
        there = float(right[:shared].mean())
        difference = there - float(peer.trial.hits[:shared].mean())
        if best is None or difference < best[0]:
            best = (difference, peer, there, shared)
        speed = peer.trial.events_per_s or 0.0
        is_faster = fastest is None or speed > (fastest.trial.events_per_s or 0.0)
        if difference <= POINTS and is_faster and peer.name != NO_CHANGE:
            fastest = peer
    ratio = None
    if fastest is not None and fastest.trial.events_per_s and ours.events_per_s:
        ratio = round(ours.events_per_s / fastest.trial.events_per_s, 3)
    return Comparison(
        name=name,
        step=step,
        events=total,
        accuracy=None if ours.scores is None else round(ours.scores.accuracy, 4),
        best_peer=best and best[1].name,
        best_peer_events=best and best[3],
        best_peer_accuracy=best and round(best[2] - best[0], 4),
        accuracy_there=best and round(best[2], 4),
        difference=best and round(best[0], 4),
        fastest_peer=fastest and fastest.name,
        speed_ratio=ratio,
    )


def aims(summary: list[Comparison], streams: list[StreamReport]) -> list[Aim]:
    """What was meant to be reached, all on equal events."""
    differences = {f"{c.name}/{c.step}": c.difference for c in summary if c.difference is not None}
    ratios = {f"{c.name}/{c.step}": c.speed_ratio for c in summary if c.speed_ratio is not None}
    errors = {
        f"{found.name}/{found.step}": row.ece
        for found in streams
        if found.name in WITHOUT_DRIFT
        for row in found.rows
        if row.model == OURS and row.ece is not None
    }
    return [
        _aim("best, or at most 0.5 points behind the best peer", differences, lambda d: d >= -CLOSE),
        _aim("strictly best, on two thirds", differences, lambda d: d > 0.0, share=2 / 3),
        _aim(f"calibration error at most {ECE_MAX:g} without drift", errors, lambda e: e <= ECE_MAX),
        _aim(f"{SPEED_RATIO:g} times the speed of any peer within 2 points", ratios, lambda r: r >= SPEED_RATIO),
    ]


def _aim(aim: str, values: dict[str, float], reaches: Callable[[float], bool], share: float = 1.0) -> Aim:
    missed = [f"{where} {value:.4g}" for where, value in values.items() if not reaches(value)]
    reached = len(values) - len(missed)
    return Aim(aim=aim, reached=reached, of=len(values), is_met=reached >= share * len(values), missed=missed)


# Tables ---------------------------------------------------------------------------------------------------------------


def stream_rows(found: StreamReport, total: int) -> list[TableRow]:
    """One stream in one step, a learner a row, ours first."""
    return [
        {
            "model": row.model,
            "accuracy": _share(row.accuracy),
            "log loss": _share(row.log_loss),
            "ece": _share(row.ece),
            "kappa temporal": _share(row.kappa_temporal),
            "events/s": None if row.events_per_s is None else round(row.events_per_s),
            "memory MB": None if row.memory_mb is None else f"{row.memory_mb:.1f}",
            "events": None if row.accuracy is None else row.events or total,
            "": row.note,
        }
        for row in found.rows
    ]


def summary_rows(report: Report) -> list[TableRow]:
    """Ours and the best peer of each stream, on the same events."""
    return [
        {
            "stream": found.name,
            "step": found.step,
            OURS: _share(found.accuracy),
            "best peer": found.best_peer,
            "its accuracy": _share(found.best_peer_accuracy),
            "ours there": _share(found.accuracy_there),
            "difference": "-" if found.difference is None else f"{found.difference:+.4f}",
            "events": found.best_peer_events,
            "fastest within 2 points": found.fastest_peer,
            "ours / its speed": None if found.speed_ratio is None else f"{found.speed_ratio:.2f}",
        }
        for found in report.summary
    ]


def tables(report: Report) -> dict[str, list[TableRow]]:
    """All of them, by title."""
    events = {stream.name: stream for stream in report.about}
    found = {}
    for stream in report.streams:
        about = events[stream.name]
        title = f"{stream.name}, steps of {stream.step}: {about.events:,} events, {about.features} features, "
        found[f"{title}{about.classes} classes"] = stream_rows(stream, about.events)
    found["Ours and the best peer, on the events that both had"] = summary_rows(report)
    found["Aims"] = [
        {
            "aim": aim.aim,
            "met": aim.is_met if aim.of else "-",
            "reached": f"{aim.reached} of {aim.of}",
            "missed": ", ".join(aim.missed),
        }
        for aim in report.aims
    ]
    return found


def words(report: Report) -> list[str]:
    """What was measured where: the sentences around the tables."""
    machine = report.machine
    differences = [found.difference for found in report.summary if found.difference is not None]
    ahead = sum(difference > 0 for difference in differences)
    close = sum(-CLOSE <= difference <= 0 for difference in differences)
    behind = len(differences) - ahead - close
    slow, others = report.bounds["slow"], report.bounds["others"]
    sentences = [
        f"Against the best peer: ahead {ahead} times, equal or at most 0.5 points behind {close}, further behind "
        f"{behind}.",
        f"{machine.cpu}, {machine.cores} cores, load {report.load_average[0]:g} to {report.load_average[1]:g}, "
        f"{machine.memory_gb:g} GB, {machine.kernel}, Python {machine.python}, NumPy {machine.numpy} with "
        f"{machine.blas}; one thread each.",
        f"Ran {report.command} on {report.date}, in {report.seconds:.0f} s.",
        f"Slow learners had the first {slow.events:,} events and {slow.seconds:g} s a stream, all others at most "
        f"{others.seconds:g} s; the Hoeffding tree, scikit-learn and torch have the seconds of the slow.",
        f"A learner that had fewer than {COMPARABLE_EVENTS:,} events of a longer stream is not among the best peers.",
        "Memory is how much a process grew while it learned, or the size of the learner's state where that is more.",
    ]
    return [*sentences, *(f"{found.name} is left out: {found.reason}." for found in report.left_out)]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
