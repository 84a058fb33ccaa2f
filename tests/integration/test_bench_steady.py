"""`penstock bench steady`: what it counts, and that the state of a learner does not grow."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from penstock.cli.benchmarks.steady import SteadyReport, Stretch, endless, summed_up


def test_a_state_has_its_size_once_its_windows_are_full() -> None:
    found = endless(20_000, 500, 4_000)

    assert [stretch.events for stretch in found] == [4_000, 8_000, 12_000, 16_000, 20_000]
    # The window of trees and what recency begins with are full by then; trees differ a little in depth.
    assert found[-1].state_mb == pytest.approx(found[2].state_mb, rel=0.01)
    assert found[-1].state_mb > 0
    assert found[-1].accuracy == pytest.approx(found[-1].bayes_accuracy, abs=0.06)


def test_growth_is_told_from_the_first_fifth_on() -> None:
    made = [
        Stretch(
            events=n,
            events_per_s=100.0 / n,
            memory_mb=10.0 * n,
            state_mb=float(n),
            accuracy=0.5,
            bayes_accuracy=0.5,
        )
        for n in range(1, 11)
    ]
    found = summed_up(made, 4, "test")

    assert (found.memory_growth_mb, found.state_growth_mb) == (80.0, 8.0)
    assert found.slowest_to_fastest == pytest.approx(0.2)


def test_the_command_prints_stretches() -> None:
    arguments = ("bench", "steady", "--events", "2000", "--every", "1000", "--json")
    done = subprocess.run([sys.executable, "-m", "penstock", *arguments], capture_output=True, timeout=100, check=False)

    assert done.returncode == 0, done.stderr.decode()
    report = msgspec.json.decode(done.stdout, type=SteadyReport)
    assert [stretch.events for stretch in report.stretches] == [1_024, 2_000]
    assert report.step == 1024
