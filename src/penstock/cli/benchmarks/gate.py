"""`penstock bench gate`: whether the gate keeps what it promises, how soon it sees what is true, and what it costs.

First its deciders on simulated streams, thousands of them, looked at after every event; then the whole of it around the
real learner, on a stream that never changes, on real ones, and on the same with wrong labels from one source.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

import msgspec

from penstock.cli.benchmarks import (
    gate_answered,
    gate_answers,
    gate_apprentice,
    gate_inputs,
    gate_poison,
    gate_real,
    gate_simulated,
)
from penstock.cli.benchmarks.gate_report import Report
from penstock.cli.benchmarks.machine import describe

PARTS = ("alarms", "power", "apprentice", "harm", "cost", "steady", "sources", "streams")
Note = Callable[[str], None]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How much to measure. The defaults take some ten minutes of one core."""

    parts: tuple[str, ...] = PARTS
    streams: int = 1000
    """Simulated streams of each row."""
    seed: int = 0
    gate_events: int = 1_500
    """Events of a stream that the whole gate sees; a comparison by itself sees ten times as many."""
    shadow_events: int = 10_000
    drift_events: int = 10_000
    cost_events: int = 16_384
    cost_repeats: int = 3
    steady_events: int = 60_000
    margins: tuple[float, ...] = (0.0, 0.005)
    folder: Path | None = None
    """Where electricity, interchanging RBF and MNIST lie; without it streams are left out that need it."""
    limit: int | None = None
    """Events of each real stream at most."""


QUICK = Settings(
    streams=100,
    gate_events=1_000,
    shadow_events=4_000,
    drift_events=4_000,
    cost_events=4_096,
    cost_repeats=1,
    steady_events=8_000,
    limit=4_000,
)
"""About a minute."""


def measure(settings: Settings, command: str, note: Note) -> Report:
    """All parts that are asked for, one after the other."""
    begun, load_before = time.monotonic(), os.getloadavg()[0]
    streams, seed = settings.streams, settings.seed
    report = Report(
        machine=describe(Path(tempfile.gettempdir()), probes=20),
        streams=streams,
        alpha=gate_simulated.ALPHA,
        seed=seed,
        command=command,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        penstock=metadata.version("penstock"),
    )
    if "alarms" in settings.parts:
        report.alarms += gate_simulated.false_harm(streams, settings.gate_events, seed, note)
        report.alarms += gate_simulated.false_promotion(streams, settings.shadow_events, seed, note)
        report.alarms += gate_simulated.false_drift(streams, settings.drift_events, seed, note)
        report.alarms += gate_answers.false_faults(streams, settings.shadow_events, seed, note)
        report.alarms += gate_inputs.false_departures(streams, settings.drift_events, seed, note)
        report.alarms += gate_answered.false_moves(streams, settings.drift_events, seed, note)
    if "power" in settings.parts:
        report.power += gate_simulated.power(streams, seed, note)
    if "apprentice" in settings.parts:
        report.alarms += gate_apprentice.false_turns(streams, settings.shadow_events, seed, note)
        report.power += gate_apprentice.power(streams, seed, note)
    if "harm" in settings.parts:
        report.let_through += gate_simulated.let_through(streams, seed, note)
    if "cost" in settings.parts:
        report.cost += gate_real.cost(settings.cost_events, settings.cost_repeats, seed, note)
    if "steady" in settings.parts:
        report.steady += gate_real.steady(settings.steady_events, settings.margins, seed, note)
    if "sources" in settings.parts:
        report.honest += gate_poison.honest(settings.streams // 4, seed, note)
    if "streams" in settings.parts:
        for stream in gate_real.streams_of(settings.folder, settings.limit, note):
            report.kept.append(gate_real.kept(stream, note))
            report.poisoned.append(gate_poison.poisoned(stream, note))
    report.load_average = [round(load_before, 2), round(os.getloadavg()[0], 2)]
    report.seconds = round(time.monotonic() - begun, 1)
    return report
