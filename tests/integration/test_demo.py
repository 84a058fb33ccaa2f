"""The demo end to end: a real supervisor, real clients, a killed learner, wrong labels; the figures hold together."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.timeout(240)
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "COLUMNS": "100"}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "penstock", "demo", "--headless", *arguments]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    data = tmp_path_factory.mktemp("demo") / "new"
    return subprocess.run(
        command("--for", "45", "--json", "--data", str(data)),
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=220,
        check=False,
    )


@pytest.fixture(scope="module")
def figures(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(run.stdout)
    return shown


def test_it_ends_by_itself_with_one_json_object_and_every_promise_kept(
    run: subprocess.CompletedProcess[str], figures: dict[str, Any]
) -> None:
    assert (run.returncode, figures["broken"], figures["complete"]) == (0, [], True), run.stderr


def test_every_acknowledged_event_is_learned_once_or_set_aside(figures: dict[str, Any]) -> None:
    dealt_with = figures["events_learned"] + figures["events_set_aside"]
    assert figures["events_acknowledged"] == figures["events_accepted"] == dealt_with
    assert figures["events_acknowledged"] == 5166 + 240 + 1267


def test_predictions_never_stop(figures: dict[str, Any]) -> None:
    assert figures["predictions_failed"] == 0
    assert figures["predictions_served"] > figures["services"]["flow"]["hours"] == 1267


def test_the_killed_learner_comes_back(figures: dict[str, Any]) -> None:
    assert figures["learner_kills"] == 1
    assert figures["restarts"][0]["service"] == "digits"
    assert figures["restarts"][0]["caught_up_ms"] > 0


def test_the_gate_deals_with_the_wrong_labels_and_says_how(figures: dict[str, Any]) -> None:
    burst = figures["burst"]
    assert burst["events"] == 240
    assert burst["set_aside"] == figures["events_set_aside"] > 200
    assert any(burst["source"] in verdict for verdict in burst["verdicts"])
    assert figures["versions_refused_or_rolled_back"] >= burst["held"] + burst["rolled_back"]
    assert burst["accuracy_after"] > 0.9


def test_the_first_classes_are_remembered_and_the_naive_learner_forgets_them(figures: dict[str, Any]) -> None:
    digits = figures["services"]["digits"]
    assert digits["accuracy_first_classes"] >= 0.90
    assert digits["naive_accuracy_first_classes"] < 0.5
    assert digits["accuracy_all"] > digits["naive_accuracy_all"]
    assert digits["held_out_sent"] == 0


def test_the_flow_is_predicted_better_than_by_its_last_value(figures: dict[str, Any]) -> None:
    flow = figures["services"]["flow"]
    assert flow["mae"] < flow["baseline_mae"]
    assert flow["baseline_mae"] == pytest.approx(0.631, abs=0.001)


def test_freshness_is_measured_for_every_acknowledgement(figures: dict[str, Any]) -> None:
    fresh = figures["freshness_ms"]
    assert 0 < fresh["p50"] <= fresh["p99"]
    assert fresh["measured"] > 1267


def test_ctrl_c_stops_it_in_order_with_a_partial_summary(tmp_path: Path) -> None:
    with subprocess.Popen(
        command("--for", "60", "--json", "--data", str(tmp_path / "new")),
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as demo:
        assert demo.stderr is not None
        seen = []
        for line in demo.stderr:
            seen.append(line)
            if "begin to arrive" in line:
                break
        supervisor = json.loads((tmp_path / "new" / "data" / "run" / "state.json").read_text())["pid"]
        demo.send_signal(signal.SIGINT)
        stdout, stderr = demo.communicate(timeout=60)
    assert demo.returncode == 130, "".join(seen) + stderr
    partial = json.loads(stdout)
    assert not partial["complete"]
    assert not partial["broken"]
    deadline = time.monotonic() + 10
    while Path(f"/proc/{supervisor}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    with pytest.raises(ProcessLookupError):
        os.kill(supervisor, 0)


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    refused = subprocess.run(
        command("--data", str(tmp_path)), env=ENVIRONMENT, capture_output=True, text=True, timeout=60, check=False
    )
    assert refused.returncode == 2
    assert "not empty" in refused.stderr
    assert refused.stdout == ""
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.txt"]
