"""What `penstock bench forget` found, as one struct for programs and as tables for people."""

from __future__ import annotations

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.cli.benchmarks.forget_methods import METHODS, OURS, Run
from penstock.cli.benchmarks.forget_metrics import interval
from penstock.cli.benchmarks.machine import Machine

TableRow = dict[str, object]


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One method on one benchmark: means over the seeds."""

    method: str
    accuracy: float | None
    forgetting: float | None
    backward_transfer: float | None
    forward_transfer: float | None
    seconds: float | None
    """In learning, consolidations included."""
    least_accuracy: float | None = None
    """The mean over tasks of the worst accuracy at any look after a task was learned."""
    accuracy_interval: float | None = None
    """Half the width of the 95 % interval of the mean; absent with one seed."""
    forgetting_interval: float | None = None
    events_per_s: float | None = None
    step: int | None = None
    """Events that were learned at once."""
    every_events: int | None = None
    """From one consolidation to the next."""
    consolidations: float | None = None
    promoted: float | None = None
    given_up: float | None = None
    training_seconds: float | None = None
    """Of the bases, part of the seconds."""
    rebuilding_seconds: float | None = None
    """Of the heads on new bases, part of the seconds."""
    after_each_task: list[list[float]] = []
    """R[i][j], the mean over seeds of the accuracy on the test of task j after task i."""
    reasons: list[str] = []
    """What was said of each candidate with a new base, with the first seed."""
    note: str = ""
    """Why there is no result, or why of fewer seeds."""

    @property
    def said(self) -> str:
        """In a few words."""
        if self.accuracy is None:
            return self.note
        return f"{self.accuracy:.4f}, forgetting {self.forgetting:.4f}, {self.seconds:.1f} s"


class Benchmark(msgspec.Struct, frozen=True, kw_only=True):
    """All methods on one benchmark."""

    name: str
    rows: list[Row]
    about: str


class LeftOut(msgspec.Struct, frozen=True, kw_only=True):
    """A benchmark whose data could not be had."""

    name: str
    reason: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, in the order in which it is read."""

    benchmarks: list[Benchmark]
    machine: Machine
    methods: dict[str, str]
    """What was run under each name."""
    left_out: list[LeftOut]
    seeds: int
    command: str
    date: str
    penstock: str
    load_average: list[float]
    """Of one minute, before and after: beside other work, seconds are more than this machine's."""
    seconds: float


def row(method: str, runs: list[Run], failed: str = "") -> Row:
    """The runs of one method, one a seed; ``failed`` says why there are none, or fewer."""
    if not runs:
        return Row(
            method=method,
            accuracy=None,
            forgetting=None,
            backward_transfer=None,
            forward_transfer=None,
            seconds=None,
            note=failed,
        )

    def mean(name: str) -> float:
        return round(interval([getattr(run.scores, name) for run in runs])[0], 4)

    def half(name: str) -> float | None:
        width = interval([getattr(run.scores, name) for run in runs])[1]
        return None if width is None else round(width, 4)

    def of_runs(name: str) -> float:
        return round(float(np.mean([getattr(run, name) for run in runs])), 2)

    consolidates = bool(runs[0].every)
    matrix: NDArray[np.float64] = np.mean([run.matrix for run in runs], axis=0)
    return Row(
        method=method,
        accuracy=mean("accuracy"),
        forgetting=mean("forgetting"),
        backward_transfer=mean("backward_transfer"),
        forward_transfer=mean("forward_transfer"),
        seconds=of_runs("seconds"),
        least_accuracy=mean("least_accuracy"),
        accuracy_interval=half("accuracy"),
        forgetting_interval=half("forgetting"),
        events_per_s=round(runs[0].events / max(of_runs("seconds"), 1e-9), 1),
        step=runs[0].step,
        every_events=runs[0].every if consolidates else None,
        consolidations=of_runs("consolidations") if consolidates else None,
        promoted=of_runs("promoted") if consolidates else None,
        given_up=of_runs("given_up") if consolidates else None,
        training_seconds=of_runs("training_s") if consolidates else None,
        rebuilding_seconds=of_runs("rebuilding_s") if consolidates else None,
        after_each_task=[[round(value, 4) for value in line] for line in matrix.tolist()],
        reasons=runs[0].said,
        note=failed,
    )


# Tables ---------------------------------------------------------------------------------------------------------------


def tables(report: Report) -> dict[str, list[TableRow]]:
    """A table a benchmark, by title."""
    return {f"{found.name}: {found.about}": [_told(row) for row in found.rows] for found in report.benchmarks}


def _told(found: Row) -> TableRow:
    return {
        "method": found.method,
        "accuracy": _share(found.accuracy, found.accuracy_interval),
        "forgetting": _share(found.forgetting, found.forgetting_interval),
        "backward": _share(found.backward_transfer),
        "forward": _share(found.forward_transfer),
        "least": _share(found.least_accuracy),
        "seconds": None if found.seconds is None else f"{found.seconds:.1f}",
        "events/s": None if found.events_per_s is None else round(found.events_per_s),
        "step": found.step,
        "bases": _bases(found),
        "": found.note,
    }


def _bases(found: Row) -> str:
    if found.consolidations is None:
        return ""
    # Without a gate between the tiers nothing is promoted: the newest base answers.
    decided = METHODS[found.method].tier == "both"
    return f"{found.promoted:g} of {found.consolidations:g} promoted" if decided else f"{found.consolidations:g}"


def words(report: Report) -> list[str]:
    """What was measured where: the sentences around the tables."""
    machine = report.machine
    sentences = [*(_verdict(found) for found in report.benchmarks)]
    sentences += [
        "Accuracy is the mean over all tasks after the last one; forgetting how much of each task's best is gone by "
        "then; backward and forward what later and earlier tasks did for it; least the worst that was seen of a task "
        "once it was learned.",
        "Seconds are those of learning, of all consolidations as well, which in a running service are another "
        "process's.",
        *(f"{name}: {how}." for name, how in report.methods.items()),
        f"{machine.cpu}, {machine.cores} cores, load {report.load_average[0]:g} to {report.load_average[1]:g}, "
        f"{machine.memory_gb:g} GB, {machine.kernel}, Python {machine.python}, NumPy {machine.numpy} with "
        f"{machine.blas}; one thread each.",
        f"Ran {report.command} on {report.date}, {report.seeds} seed{'s' * (report.seeds > 1)}, in "
        f"{report.seconds:.0f} s.",
    ]
    return [*sentences, *(f"{found.name} is left out: {found.reason}." for found in report.left_out)]


def _verdict(found: Benchmark) -> str:
    """Ours against the best of the others, and against each tier alone."""
    by_name = {row.method: row for row in found.rows if row.accuracy is not None}
    ours = by_name.pop(OURS, None)
    if ours is None or ours.accuracy is None:
        return f"{found.name}: no result of {OURS}."
    parts = []
    others = [row for row in by_name.values() if not METHODS[row.method].is_ours]
    if others:
        best = max(others, key=lambda row: row.accuracy or 0.0)
        parts.append(f"the best other method is {best.method} with {best.accuracy:.4f}")
    tiers = [tier for tier in ("penstock_fast", "penstock_slow") if tier in by_name]
    parts += [f"{tier} {by_name[tier].accuracy:.4f}" for tier in tiers]
    return f"{found.name}: {OURS} {ours.accuracy:.4f}" + (f"; {', '.join(parts)}." if parts else ".")


def _share(value: float | None, half: float | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.4f}" if half is None else f"{value:.4f} ± {half:.4f}"
