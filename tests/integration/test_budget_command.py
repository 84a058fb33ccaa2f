"""`penstock budget set` and `override`: who allows what until when, what is refused, and what becomes of it."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from penstock.cli.main import run
from penstock.control.budget.limits import Limits, in_force
from penstock.control.changes import changes_folder, take, waiting
from penstock.control.ledger import Ledger, ledger_path
from penstock.control.meter.account import Charge, Metered
from penstock.control.meter.rates import Capacity
from penstock.control.portfolio import read_portfolio, write_house
from penstock.control.record import record
from penstock.control.statement import statement
from penstock.events import Version
from penstock.facts import Promoted, Throttled
from penstock.gate.interface import Interval
from penstock.publish.interface import Receipt
from penstock.publish.records.receipts import SqliteReceipts
from penstock.spec import Budget, Feature, Spec
from penstock.specfile.writer import dump

FILE = Limits(per_day=1.0, per_month=None)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with one service, on which nothing runs."""
    spec = Spec(name="shop", task="binary", features={"x": Feature(type="number")}, budget=Budget(per_day=1.0))
    (tmp_path / "shop.yaml").write_text(dump(spec))
    folder = tmp_path / "data"
    folder.mkdir()
    record({tmp_path / "shop.yaml": spec}, folder)
    write_house(folder, read_portfolio(None, Capacity(cores=2, memory_gib=8)))
    return folder


def budget(data: Path, *arguments: str) -> int:
    return run(["budget", *arguments, "--data", str(data)])


def limits(data: Path, at: float | None = None, scope: str = "shop") -> Limits:
    """What counts once the ledger has what was left for it."""
    with Ledger(ledger_path(data)) as ledger:
        take(data, ledger)
        return in_force(scope, FILE, ledger.changes(), time.time() if at is None else at)


def test_who_allows_what_until_when_and_why_is_kept_and_ends_by_itself(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert budget(data, "set", "shop", "--per-month", "20", "--by", "ann", "--reason", "spring") == 0
    assert "It counts with the next `penstock up`." in capsys.readouterr().err
    assert budget(data, "override", "shop", "--per-day", "9", "--for", "30m", "--by", "bob", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["pending"] is True
    assert told["change"]["until"] - told["change"]["at"] == pytest.approx(1800.0, abs=5.0)
    limits(data)
    assert not waiting(data)
    assert budget(data, "show", "shop", "--json") == 0
    ann, bob = json.loads(capsys.readouterr().out)["scopes"][0]["changes"]
    assert (ann["by"], ann["reason"], ann["until"], ann["per_month"]) == ("ann", "spring", None, 20.0)
    assert (bob["by"], bob["reason"], bob["per_day"], bob["per_month"]) == ("bob", "", 9.0, None)
    assert limits(data) == Limits(per_day=9.0, per_month=20.0)
    assert limits(data, time.time() + 1801.0) == Limits(per_day=1.0, per_month=20.0)
    assert budget(data, "set", "shop", "--reset", "--by", "ann") == 0
    assert limits(data) == FILE
    assert budget(data, "set", "portfolio", "--per-day", "0") == 0
    assert limits(data, scope="portfolio").per_day == 0.0
    assert limits(data) == FILE, "all together are none of them"


def test_a_change_that_waits_is_shown_with_whose_it_is(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    budget(data, "override", "shop", "--per-day", "3", "--by", "cleo")
    # Nothing has been counted yet, and that is no fault.
    assert budget(data, "show") == 0
    assert "A change by cleo waits for `penstock up`." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("set", "shop"), "--per-day or --per-month, or --reset alone"),
        (("set", "shop", "--reset", "--per-day", "3"), "--reset alone"),
        (("set", "shop", "--per-day", "-1"), "is not in the range"),
        (("set", "shop", "--per-day", "nan"), "An amount is a number"),
        (("set", "shop", "--per-month", "inf"), "An amount is a number"),
        (("set", "shop", "--per-day", "ten"), "not a valid float"),
        (("set", "shop", "--per-day", "3", "--by", "x" * 201), "<= 200"),
        (("set", "shop", "--per-day", "3", "--reason", "x" * 2001), "<= 2000"),
        (("set", "shpo", "--per-day", "3"), "There is no service 'shpo' here"),
        (("override", "shop"), "Say --per-day or --per-month"),
        (("override", "shop", "--per-day", "3", "--for", "soon"), "--for takes a time such as 30m"),
        (("override", "shop", "--per-day", "3", "--for", "0s"), "--for takes a time"),
        (("override", "shop", "--per-day", "3", "--for", "-2h"), "--for takes a time"),
        (("override", "shop", "--per-day", "3", "--for", "100000000000d"), "--for takes a time"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_leaves_nothing(
    data: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], told: str
) -> None:
    assert budget(data, *arguments) in (1, 2)
    assert told in capsys.readouterr().err
    assert not changes_folder(data).exists()


def spend(data: Path, **costs: float) -> None:
    """Of the service, by what it ran, today."""
    day = datetime.now(UTC).date().isoformat()
    charges = [
        Charge(day=day, service="shop", role=role, resource="cpu", amount=1.0, cost=cost)
        for role, cost in costs.items()
    ]
    with Ledger(ledger_path(data)) as ledger:
        ledger.enter(Metered(), charges)
        if sum(costs.values()) > 0.5:
            why = "0.97 of 1 for today are spent (97.0%)"
            ledger.decide(
                Throttled(at=1.0, service="shop", before="free", after="pause_learning", reason=why, inputs=())
            )


def test_what_is_shown_says_what_is_held_back_and_leaves_out_what_is_not_known(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spend(data, learner=0.3, server=0.1)
    assert budget(data, "show") == 0
    shown = capsys.readouterr()
    assert shown.out.splitlines()[0].split() == ["SCOPE", "RUNG", "TODAY", "OF", "MONTH", "AN", "HOUR"]
    assert "held back" not in shown.err
    spend(data, learner=0.75)
    assert budget(data, "show", "shop") == 4
    shown = capsys.readouterr()
    lines = dict(line.split("  ", 1) for line in shown.out.splitlines())
    assert lines["today"].strip() == "1.15 of 1"
    assert lines["this month by what it ran"].strip() == "learner 1.05, server 0.1"
    assert shown.err.startswith("shop is held back (pause learning): 0.97 of 1 for today are spent (97.0%).")
    assert "free -> pause_learning" in shown.err


def test_a_point_costs_all_trainings_of_the_month_over_what_was_shown_to_be_gained(data: Path) -> None:
    """Two bases promoted this month, one of them without a gain that is shown, and one last year."""
    spend(data, consolidator=6.0, learner=50.0)
    receipts = SqliteReceipts(data / "shop" / "versions.sqlite", "shop")
    now = time.time()
    for version, (at, low) in enumerate([(now - 400 * 86400.0, 0.1), (now, 0.02), (now, -0.01)], start=1):
        gained = Interval(mean=0.04, low=low, high=0.06, events=100)
        receipt = Receipt(
            version=Version(version), parent=Version(version - 1), cause="promotion", ranges=(), events=1,
            gain=gained, verdict="", time=at, cpu_s=1.0,
        )  # fmt: skip
        fact = Promoted(at=at, service="shop", number=version, base="b", version=Version(version), events=9, reason="")
        receipts.write([receipt], [fact])
    receipts.close()
    with Ledger(ledger_path(data), read_only=True) as ledger:
        (scope,) = statement(data, ledger, "shop", now).scopes
    assert scope.per_point is not None
    found = scope.per_point.low, scope.per_point.mean, scope.per_point.high
    assert found == (pytest.approx(1.0), pytest.approx(1.5), pytest.approx(3.0))
