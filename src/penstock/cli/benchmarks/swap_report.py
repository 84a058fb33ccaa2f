"""What `penstock bench swap` makes of what was seen: which answers were failed, late, torn or withdrawn."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np

from penstock.cli.benchmarks.machine import Machine, percentiles
from penstock.cli.benchmarks.swap_load import Outcome, Seen

SWAP_S = 0.1
"""An answer belongs to the swaps where a version was published less than this before it was asked for, or until it
came."""
ROUNDING = 1e-9
"""By how much probabilities of the same weights may differ: how many requests are answered together decides in which
order products are summed up. Half a block would differ by far more."""
RATIO_MAX = 1.2
ROLLBACK_MAX_MS = 250.0


class Rollback(msgspec.Struct, frozen=True, kw_only=True):
    """One that was ordered."""

    called: float
    """By the machine's monotonic clock."""
    confirmed: float
    """When the answer was there that it is done."""
    version: int
    """The new number of what was gone back to; all before it are withdrawn."""
    restored: int


class SwapReport(msgspec.Struct, frozen=True, kw_only=True):
    """Everything, in the order in which it is read."""

    versions: int
    """That were seen to be served."""
    rollbacks: int
    connections: int
    predictions: int
    events: int
    failed: int
    """Requests that were not answered with 200, or not at all."""
    failures: dict[str, int]
    """What was said instead, up to ten different ones, and how often."""
    torn: int
    """Answers that differ from another one of the same version to the same question, or, after a rollback, from those
    of the version that was gone back to."""
    withdrawn_after: int
    """Predictions of a withdrawn version that were asked for after its withdrawal was confirmed."""
    withdrawn_in_flight: int
    """Those that were asked for before the confirmation and came after it."""
    rollback_to_confirmed_ms: dict[str, float]
    rollback_to_last_ms: dict[str, float]
    """From the call to the last prediction by a version that it withdrew; 0 where none came any more."""
    rollback_to_last_max_ms: float
    predict_ms_swapping: dict[str, float]
    """Empty, as those that follow, where no such prediction was answered."""
    predict_ms_steady: dict[str, float]
    """Under the same load and the same events, while none of what they taught is published."""
    predict_ms_quiet: dict[str, float]
    """Without any event."""
    p99_ratio: float | None
    """Swapping over steady; None where either has no answer."""
    p99_ratio_quiet: float | None
    """Swapping over quiet."""
    predictions_swapping: int
    predictions_steady: int
    predictions_quiet: int
    acknowledge_ms: dict[str, float]
    behind_schedule_ms: dict[str, float]
    """How late the load itself was."""
    load_cpu_share: float
    machine: Machine
    command: str
    date: str
    penstock: str

    @property
    def is_sound(self) -> bool:
        """Whether no answer was failed, torn, or of a withdrawn version."""
        return not (self.failed or self.torn or self.withdrawn_after)


def summed_up(
    outcome: Outcome,
    swaps: Sequence[tuple[float, int]],
    rollbacks: Sequence[Rollback],
    *,
    quiet: Sequence[tuple[float, float]],
    told: tuple[Machine, str, str, str],
    connections: int,
    events: int,
    acknowledge_ms: dict[str, float],
) -> SwapReport:
    """``swaps`` are times and versions, in the order of time; ``quiet`` are stretches without events."""
    good = [seen for seen in outcome.seen if seen.status == 200]
    swapping, steady, silent = _by_stretch(good, [at for at, _ in swaps], quiet)
    last_ms = [_last_withdrawn_ms(good, rollback) for rollback in rollbacks]
    latencies = [percentiles(part) for part in (swapping, steady, silent)]
    machine, command, date, penstock = told
    return SwapReport(
        versions=len({version for _, version in swaps}),
        rollbacks=len(rollbacks),
        connections=connections,
        predictions=len(outcome.seen),
        events=events,
        failed=len(outcome.seen) - len(good) + outcome.lost,
        failures=dict(
            Counter(f"{one.status} {one.refused}" for one in outcome.seen if one.status != 200).most_common(10)
        ),
        torn=torn(good, rollbacks),
        withdrawn_after=sum(_withdrawn(seen, rollbacks, asked=True) for seen in good),
        withdrawn_in_flight=sum(
            _withdrawn(seen, rollbacks, asked=False) and not _withdrawn(seen, rollbacks, asked=True) for seen in good
        ),
        rollback_to_confirmed_ms=percentiles([(one.confirmed - one.called) * 1e3 for one in rollbacks]),
        rollback_to_last_ms=percentiles(last_ms),
        rollback_to_last_max_ms=round(max(last_ms), 3),
        predict_ms_swapping=latencies[0],
        predict_ms_steady=latencies[1],
        predict_ms_quiet=latencies[2],
        p99_ratio=_ratio(latencies[0], latencies[1]),
        p99_ratio_quiet=_ratio(latencies[0], latencies[2]),
        predictions_swapping=len(swapping),
        predictions_steady=len(steady),
        predictions_quiet=len(silent),
        acknowledge_ms=acknowledge_ms,
        behind_schedule_ms=outcome.behind_schedule_ms,
        load_cpu_share=outcome.cpu_share,
        machine=machine,
        command=command,
        date=date,
        penstock=penstock,
    )


def _ratio(ours: dict[str, float], others: dict[str, float]) -> float | None:
    return round(ours["p99"] / others["p99"], 3) if ours and others else None


def _compared(report: SwapReport) -> str:
    if report.p99_ratio is None or report.p99_ratio_quiet is None:
        return "Some of these stretches have no answer, so that their p99 cannot be compared."
    return (
        f"p99 while versions are swapped over p99 without: {report.p99_ratio:.2f} "
        f"({'within' if report.p99_ratio <= RATIO_MAX else 'beyond'} {RATIO_MAX:g}); over p99 without any event: "
        f"{report.p99_ratio_quiet:.2f}."
    )


def _by_stretch(
    seen: Sequence[Seen], swaps: Sequence[float], quiet: Sequence[tuple[float, float]]
) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds of answers with a swap about them, without one, and without events. What was asked for before the
    first quiet stretch or after the last one is left out: that is warming up."""
    swapping: list[float] = []
    steady: list[float] = []
    silent: list[float] = []
    for one in seen:
        ms = (one.answered - one.asked) * 1e3
        if any(begin <= one.asked and one.answered <= end for begin, end in quiet):
            silent.append(ms)
        elif quiet[0][1] < one.asked < quiet[-1][0]:
            last = bisect_right(swaps, one.answered) - 1
            is_swap = last >= 0 and swaps[last] > one.asked - SWAP_S
            (swapping if is_swap else steady).append(ms)
    return swapping, steady, silent


def _last_withdrawn_ms(seen: Sequence[Seen], rollback: Rollback) -> float:
    late = [one.answered for one in seen if one.version < rollback.version and one.answered > rollback.called]
    return (max(late, default=rollback.called) - rollback.called) * 1e3


def _withdrawn(seen: Seen, rollbacks: Sequence[Rollback], *, asked: bool) -> bool:
    """Whether its version was withdrawn, and that confirmed, before it was asked for, or before it came."""
    at = seen.asked if asked else seen.answered
    return any(seen.version < one.version and at > one.confirmed for one in rollbacks)


def torn(seen: Sequence[Seen], rollbacks: Sequence[Rollback]) -> int:
    """Answers that no whole version can have given."""
    restored = {one.version: one.restored for one in rollbacks}
    first: dict[tuple[int, int], list[float]] = {}
    different = 0
    for one in seen:
        weights = one.version
        while weights in restored:
            weights = restored[weights]
        others = first.setdefault((weights, one.question), one.chances)
        same = len(others) == len(one.chances) and np.allclose(others, one.chances, rtol=0.0, atol=ROUNDING)
        different += not same
    return different


def tables(report: SwapReport) -> dict[str, list[dict[str, object]]]:
    """Latencies, a condition a row."""
    rows: list[dict[str, object]] = [
        {"predictions": name, "answers": count, "p50 ms": found.get("p50"), "p99 ms": found.get("p99")}
        for name, count, found in (
            ("while versions are swapped", report.predictions_swapping, report.predict_ms_swapping),
            ("events learned, none published", report.predictions_steady, report.predict_ms_steady),
            ("no events", report.predictions_quiet, report.predict_ms_quiet),
        )
    ]
    return {"Predictions, as their clients see them": rows}


def words(report: SwapReport) -> list[str]:
    """What it comes to, beside what it should."""
    machine = report.machine
    is_fast = report.rollback_to_last_ms["p99"] <= ROLLBACK_MAX_MS
    failures = [f"{count:,} times: {said}" for said, count in report.failures.items()]
    return [
        *failures,
        f"{report.versions:,} versions and {report.rollbacks} rollbacks under {report.predictions:,} predictions over "
        f"{report.connections} connections: {report.failed} failed, {report.torn} torn, {report.withdrawn_after} of a "
        f"withdrawn version after the withdrawal was confirmed ({report.withdrawn_in_flight} were on their way).",
        f"From the call of a rollback to the last prediction by what it withdrew: p50 "
        f"{report.rollback_to_last_ms['p50']:.1f} ms, p99 {report.rollback_to_last_ms['p99']:.1f} ms "
        f"({'within' if is_fast else 'beyond'} {ROLLBACK_MAX_MS:g}); confirmed after p50 "
        f"{report.rollback_to_confirmed_ms['p50']:.1f} ms.",
        _compared(report),
        f"The load was {report.behind_schedule_ms['p99']:.1f} ms late at p99 and took "
        f"{100 * report.load_cpu_share:.0f} % of a core.",
        f"{machine.cpu}, {machine.cores} cores, {machine.kernel}, {machine.filesystem}, fdatasync p50 "
        f"{machine.fdatasync_ms['p50']} ms. Ran {report.command} on {report.date}.",
    ]
