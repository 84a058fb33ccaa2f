"""`penstock bench swap`: what counts as failed, torn or withdrawn, and a short run of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec

from penstock.cli.benchmarks.machine import Machine
from penstock.cli.benchmarks.swap_load import Outcome, Seen
from penstock.cli.benchmarks.swap_report import Rollback, SwapReport, summed_up, tables, torn, words

MACHINE = Machine(
    cpu="any",
    cores=1,
    memory_gb=1.0,
    kernel="any",
    python="3",
    numpy="2",
    blas="any",
    filesystem="any",
    fdatasync_ms={"p50": 1.0, "p99": 1.0},
)
BACK = Rollback(called=10.0, confirmed=10.2, version=6, restored=3)


def answer(version: int, asked: float, *, ms: float = 10.0, question: int = 0, chance: float | None = None) -> Seen:
    said = 0.1 * version if chance is None else chance
    return Seen(asked, asked + ms / 1000.0, 200, question, version, [said, 1.0 - said])


def report(*seen: Seen, lost: int = 0) -> SwapReport:
    outcome = Outcome(seen=list(seen), lost=lost, behind_schedule_ms={"p50": 0.0, "p99": 0.0}, cpu_share=0.1)
    return summed_up(
        outcome,
        [(3.0, 3), (4.0, 4), (5.0, 5), (10.1, 6)],
        [BACK],
        quiet=[(0.0, 2.0), (20.0, 22.0)],
        told=(MACHINE, "test", "today", "0"),
        connections=1,
        events=1,
        acknowledge_ms={"p50": 1.0, "p99": 1.0},
    )


def test_a_withdrawn_version_counts_from_the_confirmation_on_by_when_it_was_asked_for() -> None:
    found = report(
        answer(5, 9.9, ms=20.0),
        answer(5, 10.19, ms=50.0),
        answer(5, 10.3, ms=5.0),
        answer(6, 10.3, chance=0.3),
    )
    assert (found.withdrawn_after, found.withdrawn_in_flight, found.is_sound) == (1, 1, False)
    assert found.rollback_to_last_max_ms == 305.0
    assert report(answer(5, 9.9, ms=20.0), answer(6, 10.3, chance=0.3)).is_sound


def test_answers_of_the_same_weights_must_be_the_same_but_for_rounding() -> None:
    whole = [answer(3, 3.5, chance=0.3), answer(3, 3.6, chance=0.3 + 1e-12), answer(6, 11.0, chance=0.3)]
    assert torn(whole, [BACK]) == 0
    assert torn([*whole, answer(6, 11.1, chance=0.5)], [BACK]) == 1
    assert torn([*whole, answer(3, 3.7, chance=0.3 + 1e-6)], [BACK]) == 1
    assert torn([*whole, answer(3, 3.7, chance=0.5, question=1)], [BACK]) == 0


def test_latencies_belong_to_swaps_steady_learning_or_silence() -> None:
    found = report(
        answer(3, 1.0, ms=1.0),
        answer(3, 3.05, ms=20.0),
        answer(3, 3.99, ms=40.0),
        answer(5, 7.0, ms=5.0),
        answer(2, -1.0, ms=500.0),
        answer(6, 30.0, ms=500.0),
        lost=2,
    )
    assert (found.predictions_quiet, found.predictions_swapping, found.predictions_steady) == (1, 2, 1)
    assert found.predict_ms_steady["p50"] == 5.0
    assert found.p99_ratio is not None
    assert found.p99_ratio > 7.0
    assert (found.failed, found.is_sound) == (2, False)


def test_a_stretch_without_an_answer_has_no_latency_and_is_compared_with_none() -> None:
    found = report(answer(3, 3.05, ms=20.0))
    assert msgspec.json.decode(msgspec.json.encode(found), type=SwapReport) == found
    assert (found.predict_ms_steady, found.p99_ratio, found.p99_ratio_quiet) == ({}, None, None)
    ((_, rows),) = tables(found).items()
    assert [row["p99 ms"] for row in rows] == [20.0, None, None]
    assert any("no answer" in said for said in words(found))


def test_the_quick_run_swaps_versions_and_finds_nothing_wrong(tmp_path: Path) -> None:
    arguments = ("bench", "swap", "--quick", "--json", "--folder", str(tmp_path))
    done = subprocess.run([sys.executable, "-m", "penstock", *arguments], capture_output=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
    found = msgspec.json.decode(done.stdout, type=SwapReport)
    assert (found.failed, found.torn, found.withdrawn_after) == (0, 0, 0)
    assert (found.rollbacks, found.connections) == (3, 32)
    assert found.versions >= 60
    assert min(found.predictions_swapping, found.predictions_steady, found.predictions_quiet) > 50
    assert b"under load" in done.stderr
