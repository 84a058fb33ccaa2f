"""`penstock bench gate`: the whole gate around the real learner, and the command."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from penstock.cli.benchmarks.gate_poison import poisoned
from penstock.cli.benchmarks.gate_real import cost, steady_stream
from penstock.cli.benchmarks.gate_report import Report, tables, words
from penstock.cli.benchmarks.gate_service import Ungated, follow
from penstock.gate.interface import Gate

QUIET: list[str] = []


def test_without_a_gate_every_step_is_published_and_a_harmless_stream_loses_the_same() -> None:
    gate: Gate = Ungated()
    assert gate.doubted == ()
    stream = steady_stream(2_000, 0)
    gated, without = (follow(stream.spec, [stream.events], gated=is_gated) for is_gated in (True, False))
    assert sum(gated.events) == sum(without.events) == 2_000
    assert len(without.seconds) == 63
    assert not without.rollbacks
    assert not without.aside
    if not gated.rollbacks:
        assert gated.losses == without.losses
    assert gated.mean_loss < 0.25


def test_the_source_of_wrong_labels_is_named_and_what_it_taught_is_taken_out() -> None:
    stream = steady_stream(8_000, 1)
    found = poisoned(stream, QUIET.append)
    assert found.named
    assert found.aside.get("s0", 0) > 100
    assert found.worst_fall < 0.05


def test_the_cost_is_a_share_of_what_the_learner_takes() -> None:
    found = cost(1_024, 1, 0, QUIET.append)
    assert [row.step for row in found] == [32, 256, 1024]
    assert all(row.share < 1.0 and row.fresh_ms > 0.0 for row in found)


@pytest.mark.parametrize("as_json", [True, False])
def test_the_command_prints_what_it_found(as_json: bool) -> None:
    arguments = ["bench", "gate", "--quick", "--streams", "10", "--parts", "harm", *["--json"] * as_json]
    done = subprocess.run([sys.executable, "-m", "penstock", *arguments], capture_output=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert b"sudden, the gate" in done.stderr
    if not as_json:
        assert b"Harm until it is taken back" in done.stdout
        return
    report = msgspec.json.decode(done.stdout, type=Report)
    assert [row.watch for row in report.let_through] == ["the gate", "moving average", "none"] * 3
    assert not report.alarms
    assert list(tables(report)) == ["Harm until it is taken back"]
    assert "10 simulated streams a row" in " ".join(words(report))
