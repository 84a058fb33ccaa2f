"""`penstock bench learn`: how well and how fast streams are learned, each event predicted before it is learned.

Every learner gets the same events in the same steps with the settings that it comes with. Learners that are too slow
for a whole stream get a prefix; they are compared with ours on the very same events.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import msgspec

from penstock.cli.benchmarks import learn_streams
from penstock.cli.benchmarks.learn_report import (
    Comparison,
    Contender,
    LeftOut,
    Report,
    Row,
    StreamAbout,
    StreamReport,
    aims,
    compare,
    row,
)
from penstock.cli.benchmarks.learn_streams import NotThere, Stream
from penstock.cli.benchmarks.learners import LEARNERS, OURS, PEERS
from penstock.cli.benchmarks.machine import describe
from penstock.cli.benchmarks.trial import Bounds, Trial, run
from penstock.errors import PenstockError


class NothingToMeasure(PenstockError):
    """None of the streams can be had: {reasons}"""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How much to measure. The defaults take some 20 minutes."""

    streams: tuple[str, ...] = learn_streams.NAMES
    file: str | None = None
    label: str | None = None
    folder: Path | None = None
    """Where the streams lie that are no part of a package."""
    limit: int | None = None
    """Events of each stream; None for as many as is usual."""
    steps: tuple[int, ...] = (1, 32)
    peers: tuple[str, ...] = PEERS
    prefix: int = 5_000
    """Events that slow learners get."""
    slow_s: float = 4.0
    """Seconds that slow learners may predict and learn for, each on each stream."""
    seconds: float = 60.0
    """The same for all others, ours among them."""


QUICK = Settings(
    streams=("electricity", "interchanging_rbf", "transient_chessboard", "phishing", "sea", "sudden_drift"),
    limit=2_000,
    prefix=1_500,
    slow_s=0.7,
    seconds=10.0,
)
"""About a minute."""


def measure(settings: Settings, command: str, note: Callable[[str], None]) -> Report:
    """Every learner on every stream in every step, one after the other. Raises BadFile and NothingToMeasure."""
    begun, load_before = time.monotonic(), os.getloadavg()[0]
    reports: list[StreamReport] = []
    about: list[StreamAbout] = []
    summary: list[Comparison] = []
    left_out: list[LeftOut] = []
    for stream in _streams(settings, left_out, note):
        about.append(
            StreamAbout(
                name=stream.name,
                events=len(stream.events),
                features=len(stream.spec.features),
                classes=len(stream.classes),
                task=stream.spec.task,
            )
        )
        for step in settings.steps:
            trials = _trials(settings, stream, step, note)
            total = len(stream.events)
            rows = [row(name, trial, total) for name, trial in trials.items()]
            reports.append(StreamReport(name=stream.name, step=step, rows=rows))
            contenders = [Contender(name, trial) for name, trial in trials.items() if name != OURS]
            summary.append(compare(stream.name, step, total, trials[OURS], contenders))
    if not reports:
        raise NothingToMeasure(reasons="; ".join(f"{found.name}: {found.reason}" for found in left_out))
    return Report(
        streams=reports,
        machine=describe(Path(tempfile.gettempdir()), probes=20),
        summary=summary,
        aims=aims(summary, reports),
        about=about,
        left_out=left_out,
        learners={name: LEARNERS[name].how for name in (OURS, *settings.peers)},
        bounds={
            "slow": Bounds(events=settings.prefix, seconds=settings.slow_s),
            "others": Bounds(events=max(found.events for found in about), seconds=settings.seconds),
        },
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        penstock=metadata.version("penstock"),
        load_average=[round(load_before, 2), round(os.getloadavg()[0], 2)],
        seconds=round(time.monotonic() - begun, 1),
    )


def _streams(settings: Settings, left_out: list[LeftOut], note: Callable[[str], None]) -> Iterator[Stream]:
    """The file first: a fault in it is said before minutes are spent on others."""
    if settings.file is not None:
        yield learn_streams.from_file(settings.file, settings.label, settings.limit, note)
    for name in settings.streams:
        try:
            yield learn_streams.load(name, settings.folder, settings.limit)
        except NotThere as error:
            note(f"{name} is left out: {error}")
            left_out.append(LeftOut(name=name, reason=str(error)))


def _trials(settings: Settings, stream: Stream, step: int, note: Callable[[str], None]) -> dict[str, Trial]:
    found: dict[str, Trial] = {}
    for name in (OURS, *settings.peers):
        trial = run(name, stream, step, bounds(settings, name, len(stream.events)))
        found[name] = trial
        note(f"{stream.name}, steps of {step}: {name} {_said(row(name, trial, len(stream.events)))}")
    return found


def bounds(settings: Settings, name: str, events: int) -> Bounds:
    """What one learner may have of a stream with so many events."""
    peer = LEARNERS[name]
    return Bounds(
        events=min(events, settings.prefix) if peer.is_slow else events,
        seconds=settings.slow_s if peer.is_slow or peer.is_bounded else settings.seconds,
    )


def _said(found: Row) -> str:
    if found.accuracy is None:
        return found.note
    events = "" if found.events is None else f", first {found.events:,} events"
    speed = f"{found.events_per_s:,.0f} events/s" if found.events_per_s else ""
    return f"{found.accuracy:.4f}, {speed}{events}"
