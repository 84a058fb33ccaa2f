"""`penstock plan`: the table, the page, and what is wrong usage."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest

from penstock.cli.main import run
from penstock.cli.planning.measured import made_up
from penstock.control.plan.options import OPTIONS
from penstock.events import Kind
from penstock.serve.decode import Decoder, Media
from penstock.specfile.reader import loads

SERVICE = "name: orders\ntask: binary\nfeatures: {price: number, country: category}\n"
GIVEN = ["--rps", "3", "--request-ms", "2", "--learn-us", "200", "--memory-mib", "250", "--fresh-s", "5"]
EVERYTHING = """
name: all
task: TASK
features:
  n: {type: number, min: 0, max: 1}
  c: {type: category, values: [a, b]}
  d: category
  b: boolean
  v: vector[3]
  t: text
  s: timestamp
"""


@pytest.fixture
def service(tmp_path: Path) -> str:
    path = tmp_path / "service.yaml"
    path.write_text(SERVICE)
    return str(path)


def test_every_option_is_a_row_with_its_cost_or_its_reason(
    service: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "plan.html"
    assert run(["plan", service, *GIVEN, "-o", str(page)]) == 0
    told = capsys.readouterr()
    table = [re.sub(r" {2,}", " | ", line.strip()) for line in told.out.splitlines()[:7]]
    assert table[0].startswith("OPTION | MADE OF | USD A MONTH | P50 | P99 | FRESH | COLD A MONTH | TO LOOK AFTER")
    assert table[1].startswith("✔ | one machine | 1 × e2-standard-2 | 48.92 |")
    assert table[2].startswith("kubernetes | 1 × e2-standard-2 | 121.92 |")
    assert table[3].endswith("gpu: nothing here needs a GPU: see kubernetes")
    assert table[5].endswith("state: the learner keeps its log and its state on disk, which functions do not have")
    assert table[6].startswith("hybrid | 1 × m5.large and functions of 1769 MiB |")
    assert "Rehearsed on a whole cluster" in told.out
    assert f"penstock up {service} --data data --workers 1" in told.out
    assert "Warning: the prices of aws-lambda-list are second-hand" in told.err
    assert "cloud-run" not in told.err
    drawn = re.search(r"<svg.*</svg>", page.read_text(), re.DOTALL)
    assert drawn is not None
    lines = ElementTree.fromstring(drawn.group()).iter("polyline")
    assert len({line.get("stroke") for line in lines}) == 4


def test_the_same_seed_gives_the_same_plan_to_the_byte(service: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = []
    for _ in range(2):
        assert run(["plan", service, *GIVEN, "--swing", "0.5", "--json", "--seed", "1"]) == 0
        found.append(capsys.readouterr().out)
    assert found[0] == found[1]
    plan = msgspec.json.decode(found[0])
    assert [line["option"] for line in plan["lines"]] == list(OPTIONS)
    assert [line["option"] for line in plan["lines"] if line["chosen"]] == [plan["chosen"]]
    for line in plan["lines"]:
        assert line["usd_month"] is None or line["usd_low"] <= line["usd_month"] <= line["usd_high"]


def test_nothing_that_holds_ends_with_one_and_says_why_not(service: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", service, *GIVEN, "--p99-ms", "1"]) == 1
    told = capsys.readouterr().out
    assert "✔" not in told
    assert told.count("the work alone takes longer than is wanted of 99 answers in 100") >= 3


def test_a_trace_is_planned_for_as_it_came(service: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("t\n" + "\n".join(str(number / 2.0) for number in range(4000)))
    assert run(["plan", service, *GIVEN[2:], "--traffic", str(trace), "--frozen", "--json"]) == 0
    plan = msgspec.json.decode(capsys.readouterr().out)
    assert plan["chosen"] == "serverless"
    assert sum(plan["workload"]["traffic"]["rates"]) / len(plan["workload"]["traffic"]["rates"]) == pytest.approx(
        2.0, rel=0.02
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "Say how much comes: --rps, or --traffic"),
        ([*GIVEN, "--cloud", "moon"], "there is no 'moon'; there are aws, gcp"),
        ([*GIVEN, "-o", "plan.png"], "the plot is drawn into a page, and no picture is written: plan.html"),
        ([*GIVEN, "--frozen", "--gpu", "learning"], "--frozen has nothing that learns"),
        (["--rps", "0"], "0.0 is not in the range"),
        (["--rps", "nan"], "'nan' is no number to reckon with"),
        (["--rps", "inf"], "'inf' is no number to reckon with"),
        ([*GIVEN, "--p99-ms", "nan"], "'nan' is no number to reckon with"),
    ],
)
def test_wrong_usage_is_said(service: str, arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["plan", service, *arguments]) == 2
    assert said in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_a_trace_of_a_moment_is_refused(service: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("0\n0.5\n1\n")
    assert run(["plan", service, *GIVEN[2:], "--traffic", str(trace)]) != 0
    assert "a plan needs a minute at least" in capsys.readouterr().err


def test_a_trace_whose_times_are_no_seconds_is_refused(
    service: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("0\n1e18\n")
    assert run(["plan", service, *GIVEN[2:], "--traffic", str(trace)]) != 0
    assert "are they seconds?" in capsys.readouterr().err


def test_where_nothing_is_asked_on_a_whole_day_the_smallest_machine_is_enough(
    service: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["plan", service, "--rps", "1e-7", *GIVEN[2:], "--json"]) == 0
    plan = msgspec.json.decode(capsys.readouterr().out)
    assert (plan["chosen"], plan["rehearsal"]) == ("one machine", None)
    assert plan["lines"][0]["made_of"] == "1 × e2-standard-2"


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel", "regression", "counts"])
def test_events_that_are_made_up_are_events_of_the_service(task: str) -> None:
    import numpy as np

    spec = loads(EVERYTHING.replace("TASK", task))
    events = made_up(spec, 50, np.random.default_rng(0))
    assert len(Decoder(spec).decode(Kind.EXAMPLE, msgspec.json.encode(events), Media.JSON, 0.0)) == 50
