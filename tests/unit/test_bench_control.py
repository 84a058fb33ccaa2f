"""`penstock bench control`: files of cases, good and bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.cli.benchmarks import cases_ca, cases_hpa
from penstock.cli.benchmarks.cases import run as run_cases
from penstock.cli.main import run

CLAMP = {"current": 3, "desired": 9, "min": 1, "max": 20}
NODES = {"node_counts": [2, 0, 1]}
POD = {
    "name": "p0",
    "phase": "Running",
    "ready": True,
    "start_t": -1000,
    "ready_transition_t": -1000,
    "deleted": False,
    "containers": [{"name": "c", "request_m": 500}],
}
EVENTS = [{"change": 8, "age_s": 29}, {"change": 7, "age_s": 61}]
RULES = {"stabilization_s": 0, "select": "Max", "policies": [{"type": "Pods", "value": 10, "period_s": 60}]}
TOLERANCE = {"down": 0.1, "up": 0.1}
HPA: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "resource_utilization",
        {
            "current_replicas": 1,
            "target_utilization_pct": 50,
            "container": None,
            "tolerance": TOLERANCE,
            "pods": [POD],
            "metrics": [{"pod": "p0", "t": 0, "window_s": 60, "containers": {"c": 500}}],
        },
        {"replicas": 2, "utilization_pct": 100, "raw_avg_m": 500},
    ),
    (
        "resource_utilization",
        {
            "current_replicas": 1,
            "target_utilization_pct": 50,
            "container": "d",
            "tolerance": TOLERANCE,
            "pods": [POD],
            "metrics": [{"pod": "p0", "t": 0, "window_s": 60, "containers": {"c": 500}}],
        },
        {"error_contains": "did not receive metrics for targeted pods"},
    ),
    (
        "pods_metric",
        {
            "current_replicas": 1,
            "target_avg_m": 10,
            "tolerance": TOLERANCE,
            "pods": [POD],
            "metrics": [{"pod": "p0", "value_m": 25}],
        },
        {"replicas": 3, "usage_m": 25},
    ),
    (
        "object_value",
        {"current_replicas": 1, "tolerance": TOLERANCE, "values_m": [25], "target_m": 10, "pods": [POD]},
        {"replicas": 3, "usage_m": 25},
    ),
    (
        "object_avg",
        {"current_replicas": 2, "tolerance": TOLERANCE, "values_m": [25], "target_avg_m": 10},
        {"replicas": 3, "usage_m": 13},
    ),
    (
        "external_value",
        {"current_replicas": 1, "tolerance": TOLERANCE, "values_m": [20, 5], "target_m": 10, "pods": [POD]},
        {"replicas": 3, "usage_m": 25},
    ),
    (
        "external_avg",
        {"current_replicas": 2, "tolerance": TOLERANCE, "values_m": [20, 5], "target_avg_m": 10},
        {"replicas": 3, "usage_m": 13},
    ),
    ("per_pod_usage", {"usage_m": 7, "status_replicas": 2}, {"usage_m": 4}),
    (
        "group_pods",
        {
            "resource": "cpu",
            "cpu_initialization_period_s": 120,
            "initial_readiness_delay_s": 10,
            "pods": [POD, {**POD, "name": "p1"}],
            "metrics": [{"pod": "p0", "t": 0, "window_s": 60}],
        },
        {"ready_count": 1, "unready": [], "missing": ["p1"], "ignored": []},
    ),
    (
        "pod_request",
        {
            "pod_level_resources_gate": False,
            "pod_level_request_m": 800,
            "container": None,
            "containers": [{"name": "c", "request_m": 100}],
            "init_containers": [{"name": "s", "request_m": 5, "restart_always": True}],
        },
        {"request_m": 105},
    ),
    ("clamp_no_behavior", CLAMP, {"replicas": 6, "reason": "ScaleUpLimit"}),
    (
        "stabilize_no_behavior",
        {"window_s": 60, "recommendations": [{"replicas": 9, "age_s": 61}], "desired": 3},
        {"replicas": 3, "history_len": 1},
    ),
    (
        "behavior_rate",
        {
            "current": 3,
            "desired": 30,
            "min": 1,
            "max": 50,
            "scale_up": RULES,
            "scale_down": None,
            "scale_up_events": EVENTS,
            "scale_down_events": [],
        },
        {"replicas": 5, "reason": "ScaleUpLimit"},
    ),
    (
        "limit",
        {"direction": "down", "current": 30, "rules": RULES, "scale_up_events": [], "scale_down_events": EVENTS},
        {"limit": 28},
    ),
    (
        "store_event",
        {"direction": "down", "change": 5, "rules": RULES, "query_period_s": 60, "events": EVENTS},
        {
            "change_in_period_before": 8,
            "events": [{"change": 8, "outdated": False}, {"change": 5, "outdated": False}],
        },
    ),
    (
        "stabilize_behavior",
        {
            "current": 5,
            "desired": 3,
            "scale_up_window_s": 0,
            "scale_down_window_s": 60,
            "recommendations": [{"replicas": 4, "age_s": 59}, {"replicas": 9, "age_s": 60}],
        },
        {"replicas": 4, "history": [4, 9, 3]},
    ),
    (
        "reconcile",
        {
            "min": 1,
            "max": 9,
            "current": 1,
            "cpu_target_pct": 50,
            "behavior": {"scale_up": RULES, "scale_down": None},
            "other_metrics_failing": ["pods"],
            "recommendations": None,
            "pods": [POD],
            "metrics": [{"pod": "p0", "t": 0, "window_s": 60, "containers": {"c": 1000}}],
        },
        {"replicas": 4, "scale_written": True},
    ),
]
CA: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "binpacking",
        {
            "template": {"cpu_m": 1000, "memory_b": 1000, "max_pods": 10, "zone": "a"},
            "existing_node": None,
            "max_new_nodes": None,
            "pod_groups": [{"count": 5, "cpu_m": 400, "memory_b": 100}],
        },
        {"nodes": 3, "pods_scheduled": 5},
    ),
    (
        "expander_least_waste",
        {
            "options": [
                {"id": "a", "cpu_m": 1000, "memory_b": 1000, "count": 1},
                {"id": "b", "cpu_m": 2000, "memory_b": 1000, "count": 1},
            ],
            "pods": [{"cpu_m": 900, "memory_b": 100}],
        },
        {"best": ["a"]},
    ),
    ("expander_least_nodes", NODES, {"best_index": [2]}),
    ("expander_priority", {"priorities": {"1": ["a"], "7": ["b$"]}, "options": ["ab", "ba"]}, {"best": ["ab"]}),
    (
        "utilization",
        {
            "allocatable": {"cpu_m": 1000, "memory_b": 1000, "gpu": None},
            "gpu_label": False,
            "ignore_daemonsets": False,
            "ignore_mirror": False,
            "pods": [
                {"cpu_m": 100, "memory_b": 10, "init_containers": [{"cpu_m": 300, "restart_always": True}]},
                {"cpu_m": 900, "memory_b": 10, "long_terminating": True},
            ],
        },
        {"utilization": 0.4, "cpu": 0.4},
    ),
    (
        "eligibility",
        {
            "node": {
                "cpu_m": 1000,
                "memory_b": 10,
                "ready": True,
                "being_deleted": False,
                "scale_down_disabled": True,
            },
            "pods": [],
            "threshold": 0.5,
            "ignore_daemonsets": False,
            "scale_down_unready": True,
        },
        {"unneeded": False, "reason": "ScaleDownDisabledAnnotation"},
    ),
    (
        "removable_counts",
        {"empty": 3, "drain": 5, "min_size": 1, "target_size": 5, "deletions_in_progress": 2},
        {"empty": 2, "drain": 0},
    ),
    (
        "removable_reason",
        {
            "ready": True,
            "unneeded_for_s": 600,
            "unneeded_time_s": 600,
            "unready_time_s": 1,
            "scale_down_disabled": False,
            "in_node_group": True,
            "min_size": 0,
            "target_size": 1,
            "threshold_lookup_fails": False,
            "min_nodes_quota": None,
        },
        {"reason": "NotUnneededLongEnough"},
    ),
    ("unneeded_since", {"unneeded_at_0s": ["a"], "unneeded_at_60s": ["a", "b"]}, {"since_s": {"a": 0, "b": 60}}),
]


def write(path: Path, given: list[tuple[str, dict[str, Any], dict[str, Any]]]) -> str:
    cases = [
        {"id": str(index), "kind": kind, "source": "made up", "name": kind, "input": takes, "expect": gives}
        for index, (kind, takes, gives) in enumerate(given)
    ]
    path.write_bytes(msgspec.json.encode({"title": "made up", "cases": cases}))
    return str(path)


def test_cases_of_every_kind_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [write(tmp_path / "hpa.json", HPA), write(tmp_path / "ca.json", CA)]
    code = run(["bench", "control", "--json", "--hpa-cases", files[0], "--ca-cases", files[1]])
    report = msgspec.json.decode(capsys.readouterr().out)
    assert report == {"cases": len(HPA) + len(CA), "passed": len(HPA) + len(CA), "failed": []}
    assert code == 0


@pytest.mark.parametrize("given", [*HPA, *CA], ids=lambda case: case[0])
def test_a_case_that_expects_something_else_fails(
    given: tuple[str, dict[str, Any], dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, takes, gives = given
    option = "--hpa-cases" if given in HPA else "--ca-cases"
    for key in gives:
        file = write(tmp_path / "cases.json", [(kind, takes, {**gives, key: "something else"})])
        assert run(["bench", "control", "--json", option, file]) == 1
        report = msgspec.json.decode(capsys.readouterr().out)
        assert report["passed"] == 0
        assert report["failed"][0]["id"] == "0"


@pytest.mark.parametrize(
    ("kind", "takes", "reason"),
    [
        ("no_kind", CLAMP, "there is no kind 'no_kind'"),
        ("clamp_no_behavior", {**CLAMP, "extra": 1}, "unknown field `extra`"),
        ("clamp_no_behavior", {"current": 3}, "missing required field `desired`"),
        ("clamp_no_behavior", {**CLAMP, "desired": "many"}, "Expected `int`, got `str`"),
    ],
)
def test_a_case_that_cannot_be_run_fails_with_its_reason(
    kind: str, takes: dict[str, Any], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write(tmp_path / "cases.json", [(kind, takes, {})])
    assert run(["bench", "control", "--json", "--hpa-cases", file]) == 1
    assert reason in msgspec.json.decode(capsys.readouterr().out)["failed"][0]["reason"]


def verdict(kind: str, takes: dict[str, Any], gives: dict[str, Any], path: Path) -> tuple[int, str]:
    """How many cases of this one agree, and why it does not where it cannot be run."""
    outcome = run_cases(Path(write(path, [(kind, takes, gives)])), {**cases_hpa.KINDS, **cases_ca.KINDS})
    return outcome.passed, outcome.failed[0].reason if outcome.failed else ""


@pytest.mark.parametrize(
    ("kind", "takes", "reason"),
    [
        (
            "external_avg",
            {"current_replicas": 0, "tolerance": TOLERANCE, "values_m": [0], "target_avg_m": 0},
            "its numbers give no answer",
        ),
        (
            "binpacking",
            {
                "template": {"cpu_m": 1, "memory_b": 1},
                "pod_groups": [{"count": -1, "cpu_m": 1, "memory_b": 1, "spread": {"max_skew": 1, "key": "hostname"}}],
            },
            ">= 0",
        ),
        (
            "binpacking",
            {"template": {"cpu_m": 1, "memory_b": 1}, "pod_groups": [{"count": 10**12, "cpu_m": 0, "memory_b": 0}]},
            "<= 10000000",
        ),
    ],
)
def test_a_case_with_impossible_numbers_ends_and_leaves_the_others_alone(
    kind: str, takes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    file = Path(write(tmp_path / "cases.json", [(kind, takes, {}), ("clamp_no_behavior", CLAMP, {})]))
    outcome = run_cases(file, {**cases_hpa.KINDS, **cases_ca.KINDS})
    assert (outcome.passed, len(outcome.failed)) == (1, 1)
    assert reason in outcome.failed[0].reason


def test_a_list_of_other_things_than_names_disagrees(tmp_path: Path) -> None:
    takes = {"priorities": {}, "options": ["a", "b"]}
    assert verdict("expander_priority", takes, {"best": [None, 1]}, tmp_path / "cases.json") == (0, "")


def test_a_node_that_tells_of_no_processors_is_an_error_and_no_crash(tmp_path: Path) -> None:
    state = {"cpu_m": 0, "memory_b": 1, "ready": True, "being_deleted": False, "scale_down_disabled": False}
    takes = {"node": state, "pods": [], "threshold": 0.5, "ignore_daemonsets": False, "scale_down_unready": True}
    assert verdict("eligibility", takes, {"error": True}, tmp_path / "cases.json") == (1, "")


def test_what_is_left_out_of_a_case_counts_as_null(tmp_path: Path) -> None:
    group = {"count": 3, "cpu_m": 100, "memory_b": 1, "host_port": True}
    takes = {"template": {"cpu_m": 1000, "memory_b": 10}, "pod_groups": [group]}
    assert verdict("binpacking", takes, {"nodes": 3, "pods_scheduled": 3}, tmp_path / "cases.json") == (1, "")
    takes = {"pod_level_resources_gate": True, "containers": [{"name": "c", "request_m": 7}], "init_containers": []}
    assert verdict("pod_request", takes, {"request_m": 7}, tmp_path / "cases.json") == (1, "")


@pytest.mark.parametrize(
    ("container", "measured", "gives"),
    [
        # Of a pod whose containers are not known nothing was measured, and not that it used nothing.
        (None, {}, {"replicas": 2}),
        (None, None, {"replicas": 2}),
        ("c", {"c": None}, {"replicas": 2}),
        ("c", {"d": 5}, {"replicas": 2}),
    ],
)
def test_a_pod_without_a_measured_container_says_nothing(
    container: str | None, measured: dict[str, int | None] | None, gives: dict[str, Any], tmp_path: Path
) -> None:
    samples = [
        {"pod": "p0", "t": 0.0, "window_s": 60.0, "containers": {"c": 500}},
        {"pod": "q", "t": 0.0, "window_s": 60.0, "containers": measured},
    ]
    takes = {
        "current_replicas": 2,
        "target_utilization_pct": 150,
        "container": container,
        "tolerance": TOLERANCE,
        "pods": [POD, {**POD, "name": "q"}],
        "metrics": samples,
    }
    assert verdict("resource_utilization", takes, gives, tmp_path / "cases.json") == (1, "")


def test_a_bad_pattern_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = write(tmp_path / "cases.json", [("expander_priority", {"priorities": {"1": ["("]}, "options": ["a"]}, {})])
    assert run(["bench", "control", "--ca-cases", file]) == 1
    assert "is no regular expression" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "this is no file of cases"),
        (b"[]", "Expected `object`, got `array`"),
        (b'{"cases": []}', "there are no cases in it"),
        (b'{"cases": [{"id": "1"}]}', "missing required field `kind`"),
        (b"\xff\xfe", "this is no file of cases"),
        (b'{"cases": ' + b"[" * 100_000, "this is no file of cases"),
    ],
)
def test_a_bad_file_is_an_error(
    content: bytes, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "cases.json"
    path.write_bytes(content)
    assert run(["bench", "control", "--hpa-cases", str(path)]) == 1
    error = capsys.readouterr().err
    assert "cases.json" in error
    assert reason in error
