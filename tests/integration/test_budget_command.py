"""`penstock budget set` and `override`: who allows what until when, what is refused, and what becomes of it."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from penstock.cli.main import run
from penstock.control.budget.limits import Limits, in_force
from penstock.control.changes import changes_folder, take, waiting
from penstock.control.ledger import Ledger, ledger_path
from penstock.control.meter.rates import Capacity
from penstock.control.portfolio import read_portfolio, write_house
from penstock.control.record import record
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
    with Ledger(ledger_path(data)):
        pass
    budget(data, "override", "shop", "--per-day", "3", "--by", "cleo")
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
