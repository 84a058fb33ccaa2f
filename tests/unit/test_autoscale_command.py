"""`penstock autoscale`: the table, the files, and what is wrong usage."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from penstock.cli.main import run
from penstock.control.simulate import traffic
from penstock.deploy import reading

SERVICE = "name: orders\ntask: binary\nfeatures: {price: number}\n"


@pytest.fixture
def service(tmp_path: Path) -> str:
    path = tmp_path / "service.yaml"
    path.write_text(SERVICE)
    return str(path)


@pytest.fixture
def trace(tmp_path: Path) -> str:
    """Half an hour of which ten minutes are busy."""
    rng = np.random.default_rng(1)
    calm, busy = traffic.steady(0.5, 1800.0, rng), 600.0 + traffic.steady(4.0, 600.0, rng)
    path = tmp_path / "trace.csv"
    path.write_text("\n".join(str(each) for each in np.sort(np.concatenate([calm, busy]))))
    return str(path)


GIVEN = ["--request-ms", "2000", "--start-s", "10", "--late", "0.05"]


def test_what_is_told_is_what_the_file_says(
    service: str, trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "k8s"
    assert run(["autoscale", service, "--traffic", trace, *GIVEN, "--json", "-o", str(out)]) == 0
    told = capsys.readouterr()
    found = msgspec.json.decode(told.out)
    assert sorted(path.name for path in out.iterdir()) == [
        "orders-learner-scaledobject.yaml",
        "orders-servers-scaledobject.yaml",
    ]
    text = (out / "orders-servers-scaledobject.yaml").read_text()
    scaling = reading.scaled(text)
    assert found["scaling"]["autoscaler"]["smallest"] == scaling.autoscaler.smallest
    assert found["written"]["late"] <= 0.05
    assert f"# {found['written']['late']:.2%} waited for more than 1 s" in text
    assert found["written"]["replicas"] < found["fixed"]["replicas"]
    assert f"kubectl diff -f {out}/orders-servers-scaledobject.yaml" in told.err


def test_the_table_has_a_fixed_count_what_is_written_and_our_own(
    service: str, trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "k8s"
    assert run(["autoscale", service, "--traffic", trace, *GIVEN, "--as", "hpa", "-o", str(out)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[:4]] == [
        "WAY",
        "a fixed count",
        "what is written",
        "Penstock's own policy",
    ]
    assert sorted(path.name for path in out.iterdir()) == ["orders-servers-hpa.yaml", "prometheus-adapter-rules.yaml"]


def test_where_nothing_keeps_the_promise_nothing_is_written(
    service: str, trace: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "k8s"
    assert run(["autoscale", service, "--traffic", trace, *GIVEN, "--largest", "3", "-o", str(out)]) == 1
    assert "Nothing up to 3 replicas keeps the promise" in capsys.readouterr().out
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Say how much comes: --rps, or --traffic"),
        (["--rps", "1", "--kafka", "kafka:9092/orders"], "'kafka:9092/orders' should be brokers/topic/group"),
        (["--rps", "40", "--swing", "0.5", "--request-ms", "9"], "3,456,000 requests in which the traffic repeats"),
        (["--rps", "1", "--as", "hpa", "--kafka", "k:9092/orders/learner"], "--kafka is for --as keda"),
    ],
)
def test_wrong_usage_is_said(service: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["autoscale", service, *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())
