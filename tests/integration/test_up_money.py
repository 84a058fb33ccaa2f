"""A running service with a limit of cents, counted by a server that says what OpenCost says: stopped, killed, allowed
more, restated, and left without anybody who counts."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
import urllib3
from up_process import Up, running, until

from penstock.cli.benchmarks.running import descendants
from penstock.cli.main import run
from penstock.client import Client
from penstock.control.ledger import Ledger, ledger_path
from penstock.control.meter.forecast import period_of
from penstock.control.statement import statement
from penstock.errors import Refused, Unreachable
from penstock.publish.notices.allowance import HEIGHT
from penstock.testing.http_stub import answering, say

SERVICE = """
name: orders
task: binary
features: {price: number}
learn: {random_features: 16}
consolidate: {when: never}
budget: {per_day: 0.05, at_limit: stop, alert_file: alerts.jsonl}
"""
BUDGET = """
meter: {every_s: 1, blind_after_s: 4, opencost: {url: "%s/allocation"}}
"""
LEARNS = ("free", "alert", "slow_consolidation")
"""Rungs of who has enough; at what it costs here an hour more is forecast than there is."""


class OpenCost:
    """Says of every day that it cost this much, as the only window of its answer."""

    def __init__(self) -> None:
        self.url = ""
        self.cost = 0.001
        self.is_down = False

    def tell(self, handler: BaseHTTPRequestHandler) -> None:
        asked = parse_qs(urlsplit(handler.path).query)
        start, _, end = asked.get("window", [""])[0].partition(",")
        common = {"window": {"start": start, "end": end}, "minutes": 60, "cpuCost": self.cost}
        shop = {**common, "name": "learner", "cpuCoreHours": 0.5, "totalCost": self.cost}
        idle = {**common, "name": "__idle__", "cpuCost": 0.5, "totalCost": 0.5}
        answer = {"code": 200, "data": [{"app=orders/role=learner": shop, "__idle__": idle}]}
        content = b"<html>down for maintenance</html>" if self.is_down else json.dumps(answer).encode()
        say(handler, 200 if start else 404, content)


@pytest.fixture
def opencost() -> Iterator[OpenCost]:
    made = OpenCost()
    with answering(made.tell) as made.url:
        yield made


def outcome(ask: Callable[[], object]) -> str:
    """``answered``, ``spent``, or ``gone`` where nobody is there for the moment."""
    try:
        ask()
    except Refused as error:
        return "spent" if error.problem["type"] == "urn:penstock:problem:over-budget" else str(error)
    except Unreachable:
        return "gone"
    return "answered"


def rung(up: Up) -> str:
    return str(json.loads((up.data / "orders" / "allowance.json").read_text())["rung"])


def kill(up: Up, role: bytes) -> None:
    for pid in reversed(descendants(up.process.pid)):
        if role in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            os.kill(pid, signal.SIGKILL)
            return
    raise AssertionError(f"there is no {role!r}")


def test_a_hard_cap_stops_a_service_until_somebody_allows_more_or_less_was_spent(
    tmp_path: Path, opencost: OpenCost, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "service.yaml").write_text(SERVICE)
    (tmp_path / "budget.yaml").write_text(BUDGET % opencost.url)
    budget = ("--budget", str(tmp_path / "budget.yaml"))
    with running(tmp_path / "service.yaml", tmp_path / "data", *budget) as up, up.client() as client:

        def predict() -> Any:
            return client.predict("orders", {"price": 3.0})

        def learn() -> Any:
            return client.examples("orders", [{"features": {"price": 1.0}, "label": 1}])

        def show() -> Any:
            with Ledger(ledger_path(up.data), read_only=True) as ledger:
                return msgspec.to_builtins(statement(up.data, ledger, "orders", time.time()))

        learn()
        until(lambda: show()["scopes"][0]["day"]["spent"] > 0.0, "nothing was read")
        _is_told_everywhere(up, client, show(), opencost)

        # At the limit nothing is answered, whoever is killed.
        opencost.cost = 0.06
        until(lambda: outcome(predict) == outcome(learn) == "spent", "it did not stop")
        _says_when_to_come_again(up, capsys)
        for role in (b"_governor", b"_server"):
            kill(up, role)
        until(lambda: outcome(predict) == "spent", "it did not come back")
        assert {outcome(predict) for _ in range(20)} <= {"spent", "gone"}

        # Somebody allows more, for a while, and takes it back; each is kept with who and why.
        _change(
            up, capsys, "override", "orders", "--per-day", "5", "--for", "2h", "--by", "ann", "--reason", "a big day"
        )
        until(lambda: outcome(predict) == "answered", "nobody allowed more")
        told = show()
        (allowed,) = told["scopes"][0]["changes"]
        assert (allowed["by"], allowed["reason"], allowed["per_day"]) == ("ann", "a big day", 5.0)
        assert 7100 < allowed["until"] - allowed["at"] <= 7200
        _change(up, capsys, "set", "orders", "--reset", "--by", "bob")
        until(lambda: outcome(predict) == "spent", "what was allowed was not taken back")

        # Less was spent than it seemed.
        opencost.cost = 0.01
        until(lambda: outcome(predict) == "answered", "what was restated was not believed")
        until(lambda: rung(up) in LEARNS, "it did not walk down")
        told = show()
        walked = [HEIGHT[each["after"]] for each in reversed(told["decisions"])]
        assert walked.count(HEIGHT["stop"]) == 2
        assert all(after == before - 1 for before, after in pairwise(walked) if after < before), "a rung at a time"
        assert told["scopes"][0]["day"]["spent"] == pytest.approx(0.01)

        # Who does not know what is spent does not learn, and answers.
        opencost.is_down = True

        def fault() -> str:
            return str(client.status("orders")["money"]["meter_fault"])

        until(lambda: rung(up) == "pause_learning" and "down for maintenance" in fault(), "it went on without knowing")
        assert predict()["version"] >= 1
        assert "learning is paused: nobody knows" in client.status("orders")["health"]["worst"]
        assert run(["budget", "show", "--data", str(up.data)]) == 0
        assert "it does not say more: " in capsys.readouterr().err
        opencost.is_down = False
        until(lambda: rung(up) != "pause_learning", "it did not go on")
        assert up.stop() == 0
    ids = [json.loads(line)["id"] for line in (up.data / "alerts.jsonl").read_text().splitlines()]
    assert len(ids) == len(set(ids))
    assert sorted(each.rsplit("/", 1)[1] for each in ids)[:1] == ["actual"]
    assert sum(each.endswith("/blind") for each in ids) == 1


def _is_told_everywhere(up: Up, client: Client, shown: dict[str, Any], opencost: OpenCost) -> None:
    assert shown["machine"] == f"OpenCost at {opencost.url}/allocation"
    assert shown["counted_until"] > up.state.started
    assert shown["month"]["idle"] == pytest.approx(0.5), "idle stands apart"
    assert shown["month"]["services"]["orders"]["per_1000_predictions"] is None, "nobody says what serving costs"
    until(lambda: client.status("orders")["money"]["day"] is not None, "the server heard nothing")
    until(lambda: len(client.versions("orders")) > 0, "no receipt was written")
    number = client.versions("orders")[0]["version"]
    until(lambda: client.version("orders", number)["cost"]["total"] is not None, "nobody said what learning costs")
    receipt = client.version("orders", number)
    assert receipt["cost"]["learning"] == pytest.approx(receipt["cpu_s"] * 0.001 / 1800.0)
    metrics = urllib3.request("GET", f"{up.state.address}/metrics").data.decode()
    assert 'penstock_cost_day{service="orders"} 0.001' in metrics
    assert "penstock_cost_age_seconds{" in metrics


def _says_when_to_come_again(up: Up, capsys: pytest.CaptureFixture[str]) -> None:
    asked = urllib3.request("POST", f"{up.state.address}/v1/orders/predict", json={"features": {"price": 1.0}})
    assert asked.status == 503
    left_s = period_of("day", time.time()).left_s
    assert int(asked.headers["Retry-After"]) == pytest.approx(max(5.0, min(3600.0, left_s)), abs=5.0)
    assert "0.06 of 0.05 for the day" in asked.json()["detail"]
    assert run(["predict", "orders", '{"price": 1}', "--url", up.state.address]) == 4
    assert "penstock budget override orders --per-day AMOUNT" in capsys.readouterr().err


def _change(up: Up, capsys: pytest.CaptureFixture[str], *arguments: str) -> None:
    assert run(["budget", *arguments, "--json", "--data", str(up.data)]) == 0
    assert json.loads(capsys.readouterr().out)["pending"] is False, "it counts while this is said"
