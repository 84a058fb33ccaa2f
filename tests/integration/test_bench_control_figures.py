"""`penstock bench control` without cases: every figure within its bound."""

from __future__ import annotations

import msgspec
import pytest

from penstock.cli.benchmarks import control, control_report
from penstock.cli.main import run


def test_chunks_of_requests_are_one_queue() -> None:
    assert control.mean_wait(0.5, 4_000_000) == pytest.approx(control.erlang_wait(control.SERVERS, 0.5), rel=0.02)


def test_erlangs_formula_for_one_server_is_that_of_a_single_queue() -> None:
    assert control.erlang_wait(1, 0.8) == pytest.approx(0.8 / (1.0 - 0.8))


@pytest.mark.long
@pytest.mark.timeout(600)
def test_every_figure_is_within_its_bound(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "control", "--json", "--quick"]) == 0
    report = msgspec.json.decode(capsys.readouterr().out, type=control_report.Report)
    assert report.holds
    assert report.cluster is not None
    assert (report.cluster.packed_pods, report.cluster.packed_nodes) == (51_000, 2595)
    assert control_report.words(report)
    assert control_report.tables(report)
