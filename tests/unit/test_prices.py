"""The price list, a user's own, and `penstock prices`."""

from __future__ import annotations

import datetime
from pathlib import Path

import msgspec
import pytest

from penstock.cli.main import run
from penstock.control.prices.catalogue import builtin, load, warnings
from penstock.errors import BadFile

OWN = """
currency: EUR
per_usd: 0.5
sources:
  mine: {where: my contract, date: 2026-07-01}
instances:
  - {cloud: aws, region: us-east-1, type: g6.xlarge, price: 0.2, spot: 0.1, vcpu: 4, memory_mib: 16384,
     accelerator: L4, gpus: 1, source: mine}
  - {cloud: cellar, region: here, type: box, price: 0.01, vcpu: 8, memory_mib: 32768, source: mine}
"""


def own(folder: Path, text: str) -> Path:
    path = folder / "prices.yaml"
    path.write_text(text)
    return path


def test_every_price_that_comes_with_us_has_a_day_and_a_place() -> None:
    listed = builtin()
    assert len(listed.instances) > 50
    for each in (*listed.instances, *listed.rates):
        assert each.price > 0
        assert listed.sources[each.source].date > datetime.date(2025, 1, 1)
        assert listed.sources[each.source].where
    for each in listed.instances:
        assert each.spot is None or each.spot < each.price
        assert not each.gpus or each.accelerator


def test_a_users_file_replaces_what_it_names_in_its_own_currency(tmp_path: Path) -> None:
    merged, listed = load(own(tmp_path, OWN)), builtin()
    assert merged.currency == "EUR"
    g6, box, m5 = merged.instance("g6.xlarge"), merged.instance("box"), merged.instance("m5.large")
    assert g6 is not None
    assert box is not None
    assert m5 is not None
    assert (g6.price, g6.spot, box.price) == (0.2, 0.1, 0.01)
    before = listed.instance("m5.large")
    assert before is not None
    assert m5.price == before.price * 0.5
    spots = {each.type: each.spot for each in listed.instances}
    assert all(
        each.spot == spots[each.type] * 0.5
        for each in merged.instances
        if spots.get(each.type) and each.source != "mine"
    )
    assert len(merged.instances) == len(listed.instances) + 1
    requests, before_requests = merged.rate("lambda requests"), listed.rate("lambda requests")
    assert requests is not None
    assert before_requests is not None
    assert requests.price == before_requests.price * 0.5


def test_old_second_hand_and_future_prices_are_warned_of() -> None:
    listed = builtin()
    read = listed.sources["karpenter-aws"].date
    last_day = read + datetime.timedelta(days=listed.valid_days)

    def about(day: datetime.date) -> list[str]:
        return [each for each in warnings(listed, day) if "karpenter-aws" in each]

    assert about(read) == []
    assert about(last_day) == []
    assert "181 days ago" in about(last_day + datetime.timedelta(days=1))[0]
    assert "still to come" in about(read - datetime.timedelta(days=1))[0]
    assert any("second-hand" in each and "aws-lambda-list" in each for each in warnings(listed, read))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("currency: EUR", "say with `per_usd` how much of it a dollar costs"),
        ("per_usd: 2.0", "a dollar costs one dollar"),
        ("prices: []", "unknown field `prices`"),
        ("[", "this is no YAML"),
        ("- 1", "Expected `object`, got `array`"),
        ("", "this is no price list"),
        (OWN.replace("price: 0.2", "price: -1"), "Expected `float` >= 0"),
        (OWN.replace("price: 0.01", "price: free"), "Expected `float`, got `str`"),
        (OWN.replace("price: 0.01", "price: .inf"), "Expected `float` <= "),
        (OWN.replace("price: 0.01", "price: .nan"), "Expected `float` >= 0"),
        (OWN.replace("vcpu: 8", "vcpu: .inf"), "Expected `float` <= "),
        (OWN.replace("per_usd: 0.5", "per_usd: .inf"), "Expected `float` <= "),
        (OWN.replace("mine: {", "other: {"), "`sources` says nothing of 'mine'"),
        (
            OWN.replace("cloud: cellar, region: here, type: box", "cloud: aws, region: us-east-1, type: g6.xlarge"),
            "there twice",
        ),
    ],
)
def test_a_bad_price_list_is_an_error(text: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(BadFile, match=r"prices\.yaml") as caught:
        load(own(tmp_path, text))
    assert reason in str(caught.value)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prices", "--gpu"]) == 0
    table = capsys.readouterr().out.splitlines()
    assert {"TYPE", "ACCELERATOR", "USD/H"} <= set(table[0].split())
    assert all("m5.large" not in line for line in table)
    assert run(["prices", "--json", "--cloud", "gcp"]) == 0
    report = msgspec.json.decode(capsys.readouterr().out)
    assert {each["cloud"] for each in (*report["instances"], *report["rates"])} == {"gcp"}
    assert report["currency"] == "USD"
    assert run(["prices", "--prices", str(own(tmp_path, OWN))]) == 0
    assert "EUR/H" in capsys.readouterr().out
    assert run(["prices", "--cloud", "moon"]) == 2
    assert "there are aws, gcp" in capsys.readouterr().err
    assert run(["prices", "--prices", str(own(tmp_path, "- 1"))]) == 1
    assert run(["prices", "--prices", str(tmp_path / "none.yaml")]) == 2
