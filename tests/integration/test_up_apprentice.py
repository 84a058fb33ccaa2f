"""A service beside the system that was there before, under a real `penstock up`: until it is better, and after that."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from up_process import Up, penstock, running_alone, until

from penstock.eventlog.local import LocalLogReader
from penstock.events import Batch, Kind, Offset, decode

SERVICE = """name: orders
task: binary
features: {price: number}
label: {name: returned}
learn: {random_features: 8, checkpoint_every: 1s, step_interval: 1ms}
consolidate: {when: never}
gate: {apprentice: {of: old-rules, after_events: 64}}
"""


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Up]:
    with running_alone(SERVICE, tmp_path / "orders.yaml") as up:
        yield up


def race(up: Up) -> dict[str, Any]:
    with up.client() as client:
        found: dict[str, Any] = client.status("orders")["apprentice"]
    return found


def ask(up: Up, price: float = 1.0) -> dict[str, Any]:
    with up.client() as client:
        return client.predict("orders", {"price": price})


def teach(up: Up, rng: np.random.Generator, *, is_right: bool) -> None:
    """Events whose label follows the price while the other system guesses, or that nobody but that system can know."""
    events = []
    for price in rng.normal(size=32).tolist():
        label = int(rng.random() < 0.5) if is_right else int(price > 0)
        incumbent = label if is_right else int(rng.random() < 0.5)
        events.append({"features": {"price": price}, "label": label, "incumbent": incumbent})
    with up.client() as client:
        client.examples("orders", events)


def recorded(up: Up) -> list[Batch]:
    """Predictions in the log."""
    reader = LocalLogReader(up.data / "orders" / "log")
    ends = reader.ends().items()
    frames = [frame for partition, end in ends for frame in reader.read(partition, Offset(0), end)]
    found = [decode(frame.payload) for frame in frames if frame.kind is Kind.PREDICTION]
    reader.close()
    return found


def metrics(up: Up) -> dict[str, float]:
    with urllib.request.urlopen(f"{up.state.address}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    found = [line.rpartition(" ") for line in lines if line.startswith("penstock_apprentice")]
    return {name.partition("{")[0]: float(value) for name, _, value in found}


def test_an_apprentice_says_so_until_it_is_better_and_again_when_it_is_not(house: Up, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    assert ask(house)["apprentice_of"] == "old-rules"
    asked = penstock("predict", "orders", '{"price": 1}', home=tmp_path, url=house.state.address)
    assert "until it is better, the answer of old-rules is the one to be used" in asked.stderr
    refused = penstock("promote", "orders", "--data", str(house.data), home=tmp_path)
    assert refused.returncode == 1
    assert "graduates on evidence alone" in refused.stderr

    # Predictions that both have answered are compared by what we answered then.
    for price in rng.normal(size=8).tolist():
        answer = ask(house, price)
        told = {"id": answer["id"], "label": int(price > 0), "incumbent": {"0": 0.5, "1": 0.5}}
        with house.client() as client:
            client.feedback("orders", told)
    until(lambda: race(house)["compared"] == 8, "what was answered was not compared")
    kept = [batch for batch in recorded(house) if answer["id"] in (batch.ids or ())]
    assert kept[0].replies is not None
    assert kept[0].replies.classes == ("0", "1")
    row = (kept[0].ids or []).index(answer["id"])
    assert kept[0].replies.values[row].tolist() == pytest.approx(list(answer["probabilities"].values()), abs=1e-6)

    def is_apprentice(wanted: bool, *, is_right: bool) -> bool:
        teach(house, rng, is_right=is_right)
        until(lambda: _lag(house) == 0, "the learner did not take the events")
        return bool(race(house)["is_apprentice"]) is wanted

    until(lambda: is_apprentice(False, is_right=False), "it did not graduate")
    until(lambda: "apprentice_of" not in ask(house), "the servers have not heard of it")
    found = race(house)
    assert (found["graduated"], found["race"] >= 2) == (1, True)
    assert "better than old-rules" in found["outcome"]
    with house.client() as client:
        (receipt,) = [one for one in client.versions("orders", limit=1000) if one["apprentice"]][:1]
    assert receipt["apprentice"]["what"] == "graduated"
    assert receipt["apprentice"]["gain"]["low"] > 0.0
    why = penstock("why", "orders", str(receipt["version"]), home=tmp_path, url=house.state.address)
    assert receipt["apprentice"]["reason"] in why.stderr
    seen = metrics(house)
    assert (seen["penstock_apprentice"], seen["penstock_apprentice_graduations_total"]) == (0.0, 1.0)

    until(lambda: is_apprentice(True, is_right=True), "it was not overtaken")
    until(lambda: ask(house).get("apprentice_of") == "old-rules", "the servers have not heard of it")
    with house.client() as client:
        health = client.status("orders")["health"]
    assert health == {"status": "degraded", "worst": "gate: old-rules is better again, and answers say so"}

    # A learner that was killed, and whoever takes the steps once more, knows the same.
    before = race(house)
    house.kill(house.state.learners["orders"])
    until(lambda: race(house) == before, f"{before} is {race(house)} after a restart")
    verified = penstock("verify", "orders", str(receipt["version"]), "--data", str(house.data), home=tmp_path)
    assert verified.returncode == 0, verified.stderr


def _lag(up: Up) -> int:
    with up.client() as client:
        return int(client.status("orders")["events"]["lag"])
