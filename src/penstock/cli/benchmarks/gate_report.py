"""What `penstock bench gate` found, as one struct for programs and as tables for people."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from penstock.cli.benchmarks.gate_poison import Honest, Poisoned
from penstock.cli.benchmarks.gate_real import Cost, Kept, Steady
from penstock.cli.benchmarks.gate_simulated import FalseAlarms, LetThrough, Power
from penstock.cli.benchmarks.machine import Machine

TableRow = dict[str, object]

RATIO_MAX = 1.5
"""Times the events of the ideal fixed-sample test that a promotion may take, for differences of two points or more."""
COST_MAX = 0.1
KEPT_MAX = 0.01
"""By which the gate may make the loss of a stream in order larger, relative to the other."""
FALL_MAX = 0.02
"""Points of accuracy that wrong labels from one source may cost on clean events."""


class Report(msgspec.Struct, kw_only=True):
    """Everything, in the order in which it is read; what was not asked for is empty."""

    alarms: list[FalseAlarms] = []
    power: list[Power] = []
    let_through: list[LetThrough] = []
    cost: list[Cost] = []
    steady: list[Steady] = []
    kept: list[Kept] = []
    honest: list[Honest] = []
    poisoned: list[Poisoned] = []
    streams: int
    """Simulated streams of each row."""
    alpha: float
    seed: int
    machine: Machine
    command: str
    date: str
    penstock: str
    load_average: list[float] = []
    seconds: float = 0.0


def tables(report: Report) -> dict[str, list[TableRow]]:
    """A table a part, by title."""
    found: dict[str, list[TableRow]] = {
        f"False alarms at alpha {report.alpha:g}": [_alarm(row) for row in report.alarms],
        "Events until a difference is seen": [_power(row) for row in report.power],
        "Harm until it is taken back": [_harm(row) for row in report.let_through],
        "The learner's processor time": [_cost(row) for row in report.cost],
        "Streams that stay as they are, or turn slowly": [_steady(row) for row in report.steady],
        "Sources that are different and do not lie": [_honest(row) for row in report.honest],
        "Real streams with and without the gate": [_kept(row) for row in report.kept],
        "Wrong labels from one source of five": [_poisoned(row) for row in report.poisoned],
    }
    return {title: rows for title, rows in found.items() if rows}


def _alarm(row: FalseAlarms) -> TableRow:
    return {
        "": row.what,
        "events": row.events,
        "wrong": row.wrong,
        "share": f"{row.share:.1%}",
        "at most (95 %)": f"{row.high:.1%}",
        "promised": "" if row.allowed is None else f"{row.allowed:.0%}",
    }


def _power(row: Power) -> TableRow:
    return {
        "": row.what,
        "points": row.points,
        "differ on": f"{row.disagreement:.0%}",
        "median": None if row.median is None else round(row.median),
        "nine tenths": None if row.p90 is None else round(row.p90),
        "fixed test": row.fixed,
        "ratio": row.ratio,
        "Personalizer": row.personalizer,
    }


def _harm(row: LetThrough) -> TableRow:
    return {
        "change": row.change,
        "watched by": row.watch,
        "harm": row.harm,
        "events": row.events,
        "false alarms": f"{row.false_alarms:.1%}",
    }


def _cost(row: Cost) -> TableRow:
    return {
        "step": row.step,
        "gate's share": f"{row.share:.1%}",
        "ms a step": row.fresh_ms,
        "without the gate": row.fresh_ungated_ms,
    }


def _steady(row: Steady) -> TableRow:
    return {
        "stream": row.stream,
        "harm_margin": row.harm_margin,
        "events": row.events,
        "rollbacks": row.rollbacks,
        "truly harmful": row.real,
        "mean harm": row.mean_harm,
        "loss": row.loss,
        "without the gate": row.loss_ungated,
    }


def _kept(row: Kept) -> TableRow:
    return {
        "stream": row.stream,
        "events": row.events,
        "loss": row.loss,
        "without the gate": row.loss_ungated,
        "relative": f"{row.relative:+.2%}",
        "rollbacks": row.rollbacks,
    }


def _honest(row: Honest) -> TableRow:
    return {
        "source": row.source,
        "streams": row.streams,
        "events": row.events,
        "not believed": f"{row.share:.1%}",
        "another source": row.other,
    }


def _poisoned(row: Poisoned) -> TableRow:
    return {
        "stream": row.stream,
        "events": row.events,
        "wrong": row.poisoned,
        "worst fall": f"{row.worst_fall:.1%}",
        "without the gate": f"{row.worst_fall_ungated:.1%}",
        "source silent": f"{row.worst_fall_silent:.1%}",
        "mean fall": f"{row.mean_fall:.1%}",
        "found after": row.found_after,
        "set aside": ", ".join(f"{source}: {events:,}" for source, events in sorted(row.aside.items())),
        "source named": row.named,
    }


def words(report: Report) -> list[str]:
    """What was aimed at and whether it was reached, and where this was measured."""
    machine = report.machine
    promised = [row for row in report.alarms if row.allowed is not None]
    promotions = [row for row in report.power if row.points >= 2 and "promoted" in row.what]
    aims = [
        _aim("Wrong decisions stay within alpha", [row.share <= (row.allowed or 0.0) for row in promised]),
        _aim(
            f"A shadow better by two points or more is promoted within {RATIO_MAX:g} times a fixed test's events",
            [row.ratio is not None and row.ratio <= RATIO_MAX for row in promotions],
        ),
        _aim(
            f"The gate takes at most {COST_MAX:.0%} of the learner's time", [c.share <= COST_MAX for c in report.cost]
        ),
        _aim(f"A stream in order loses at most {KEPT_MAX:.0%}", [row.relative <= KEPT_MAX for row in report.kept]),
        _aim(
            f"Wrong labels of one source cost at most {100 * FALL_MAX:.0f} points, and it is named",
            [row.worst_fall <= FALL_MAX and row.named for row in report.poisoned],
        ),
    ]
    return [
        *(aim for aim in aims if aim),
        f"{report.streams:,} simulated streams a row, looked at after every event; "
        "labels come 100 and 300 events late.",
        f"{machine.cpu}, {machine.cores} cores, {machine.memory_gb:g} GB, {machine.kernel}, Python {machine.python}, "
        f"NumPy {machine.numpy}; one thread. Ran {report.command} on {report.date} in {report.seconds:.0f} s.",
    ]


def _aim(what: str, reached: Sequence[bool]) -> str:
    if not reached:
        return ""
    how_many = f"all {len(reached)}" if all(reached) else f"{sum(reached)} of {len(reached)}"
    return f"{what}: reached in {how_many} rows."
