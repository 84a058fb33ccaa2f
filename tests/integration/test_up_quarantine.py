"""Impossible events under a real `penstock up`: set aside, looked at, released, dropped, also while nothing runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from up_process import Up, penstock, running, running_alone, until

SERVICE = """name: orders
task: regression
features: {price: {type: number, min: 0, max: 1000}, country: {type: category, values: [DE, FR]}}
label: {name: days, min: 0}
learn: {random_features: 16}
consolidate: {when: never}
"""


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Up]:
    with running_alone(SERVICE, tmp_path / "orders.yaml") as up:
        yield up


def counts(up: Up) -> dict[str, Any]:
    with up.client() as client:
        status = client.status("orders")
    return {name: status["events"][name] for name in ("accepted", "learned", "set_aside")} | status["quarantine"]


def test_impossible_events_are_set_aside_until_somebody_decides(house: Up, tmp_path: Path) -> None:
    def quarantine(*arguments: str) -> tuple[int, str, str]:
        done = penstock("quarantine", *arguments, "--data", str(house.data), home=tmp_path)
        return done.returncode, done.stdout, done.stderr

    def listed(*more: str) -> list[dict[str, Any]]:
        code, shown, said = quarantine("list", "orders", "--json", *more)
        assert code == 0, said
        rows: list[dict[str, Any]] = json.loads(shown)
        return rows

    good = [{"features": {"price": n, "country": "DE"}, "label": n % 5} for n in range(20)]
    bad = [
        {"id": "dear", "features": {"price": 1e6, "country": "FR"}, "label": 2},
        {"id": "far", "features": {"price": 3, "country": "XX"}, "label": 2},
        {"id": "past", "features": {"price": 4}, "label": -1},
    ]
    with house.client() as client:
        acknowledged = client.examples("orders", [*good, *bad], source="shop")
    assert acknowledged.accepted == 23
    assert acknowledged.set_aside == 3
    assert [(aside.event, aside.reason.partition(" ")[0]) for aside in acknowledged.why] == [
        (20, "price"),
        (21, "country"),
        (22, "days"),
    ]
    until(lambda: counts(house)["learned"] == 20, "the learner did not take the events")
    assert counts(house)["impossible"] == counts(house)["waiting"] == counts(house)["set_aside"] == 3
    rows = listed()
    assert [(row["reason"], row["source"]) for row in rows] == [("impossible", "shop")] * 3
    assert [row["told"].partition(" ")[0] for row in rows] == ["days", "country", "price"]
    assert listed("--reason", "flood") == listed("--source", "-") == []

    code, shown, _ = quarantine("show", "orders", rows[2]["id"], "--json")
    found = json.loads(shown)
    assert (code, found["event"], found["features"]) == (0, "dear", {"price": 1e6, "country": "FR"})

    code, _, said = quarantine("release", "orders", rows[2]["id"])
    assert (code, said.splitlines()[0]) == (0, "1 event was learned.")
    assert (counts(house)["learned"], counts(house)["released"]) == (21, 1)
    code, _, said = quarantine("release", "orders", rows[2]["id"])
    assert code == 1
    assert "is set aside" in said
    assert quarantine("release", "orders")[0] == 2
    code, _, said = quarantine("drop", "orders", rows[1]["id"])
    assert (code, counts(house)["dropped"], len(listed())) == (0, 1, 1), said

    # What is asked for while nothing runs is done with the next start.
    assert house.stop() == 0
    code, _, said = quarantine("release", "orders", "--source", "shop")
    assert (code, "next `penstock up`" in said, len(listed())) == (0, True, 1)
    with running(tmp_path / "orders.yaml", house.data) as again:
        until(lambda: counts(again)["released"] == 2, "the wish was not granted")
        assert (counts(again)["learned"], counts(again)["waiting"], listed()) == (22, 0, [])


def test_the_label_of_what_is_set_aside_is_corrected_and_taken_back(house: Up, tmp_path: Path) -> None:
    def listed() -> dict[str, Any]:
        done = penstock("quarantine", "list", "orders", "--json", "--data", str(house.data), home=tmp_path)
        return {row["told"].partition(" ")[0]: row["label"] for row in json.loads(done.stdout)}

    bad = [
        {"id": "dear", "features": {"price": 1e6, "country": "FR"}, "label": 2},
        {"id": "far", "features": {"price": 3, "country": "XX"}, "label": 3},
        {"id": "past", "features": {"price": 4}, "label": -1},
    ]
    with house.client() as client:
        client.examples("orders", [{"features": {"price": 1, "country": "DE"}, "label": 1}, *bad])
        until(lambda: counts(house)["impossible"] == 3, "the learner did not take the events")
        client.feedback("orders", [{"id": "past", "label": 4}, {"id": "dear", "retract": True}])
    until(lambda: counts(house)["waiting"] == 2, "the learner did not take the feedback")
    assert listed() == {"country": 3.0, "days": 4.0}
    done = penstock("quarantine", "release", "orders", "0:3", "--data", str(house.data), home=tmp_path)
    assert done.returncode == 0, done.stderr
    until(lambda: counts(house)["released"] == 1, "the event was not released")
    with house.client() as client:
        client.feedback("orders", {"id": "past", "label": 5})
        until(lambda: client.status("orders")["feedback"]["made_good"] == 1, "what was released was not corrected")
