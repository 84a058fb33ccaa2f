"""Rollbacks, holds and promotions ordered from a shell, under a real `penstock up` and while nothing runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from up_process import Up, penstock, running, until

SERVICE = """name: orders
task: binary
features: {price: number, weight: number}
label: {name: returned}
learn: {random_features: 16, checkpoint_every: 1s}
gate: {good_after_events: 64}
consolidate: {when: never}
"""


@pytest.fixture
def files(tmp_path: Path) -> Path:
    (tmp_path / "orders.yaml").write_text(SERVICE)
    return tmp_path / "orders.yaml"


@pytest.fixture
def house(files: Path, tmp_path: Path) -> Iterator[Up]:
    with running(files, tmp_path / "data") as up:
        yield up


def status(up: Up) -> dict[str, Any]:
    with up.client() as client:
        return client.status("orders")


def teach(up: Up, events: int, seed: int) -> None:
    """Events one after the other, each in a version of its own where updates are published."""
    rng = np.random.default_rng(seed)
    with up.client() as client:
        for _ in range(events // 4):
            rows = [{"price": float(p), "weight": float(w)} for p, w in rng.normal(size=(4, 2))]
            client.examples("orders", [{"features": row, "label": int(row["price"] > 0)} for row in rows])
    until(lambda: status(up)["events"]["lag"] == 0, "the learner did not take the events")


def snapshots(data: Path) -> list[int]:
    return sorted(int(path.parent.name) for path in data.glob("orders/snapshots/[0-9]*/state.safetensors"))


def test_what_is_served_follows_orders_and_says_who_gave_them(house: Up, tmp_path: Path, files: Path) -> None:
    def order(*arguments: str) -> tuple[int, str]:
        done = penstock(*arguments, "--data", str(house.data), home=tmp_path)
        return done.returncode, done.stderr

    code, said = order("rollback", "orders")
    assert (code, "last known good yet" in said) == (1, True), said
    teach(house, 400, 1)
    _await_snapshots(house, 2)
    oldest = snapshots(house.data)[1]
    teach(house, 200, 2)

    before = status(house)["model"]["version"]
    with house.client() as client:
        event = {"price": 0.4, "weight": 0.1}
        code, said = order("rollback", "orders", str(oldest), "--by", "ann", "--reason", "refunds doubled")
        assert code == 0, said
        answer = client.predict("orders", event)
        why = client.version("orders", answer["version"])
    assert said.startswith(f"Rolled back by hand to version {oldest} by ann: refunds doubled.")
    assert answer["version"] == before + 1
    assert (why["cause"], why["restores"], why["parent"]) == ("rollback", oldest, before)
    assert why["hand"] == {"what": "roll_back", "by": "ann", "reason": "refunds doubled"}
    shown = penstock("why", "orders", str(answer["version"]), home=tmp_path, url=house.state.address)
    assert f"restores version {oldest}" in shown.stderr
    assert "refunds doubled" in shown.stdout

    code, said = order("rollback", "orders", "999999")
    assert (code, str(oldest) in said) == (1, True), "what is kept is named"
    assert order("promote", "orders")[0] == 1

    assert order("hold", "orders", "--by", "ben", "--reason", "sale")[0] == 0
    assert order("hold", "orders")[0] == 1
    frame = status(house)
    assert (frame["model"]["held_by"], frame["model"]["held_why"]) == ("ben", "sale")
    assert "by hand, by ben: sale" in frame["health"]["worst"]
    served = frame["model"]["version"]
    teach(house, 400, 3)
    assert status(house)["model"]["version"] == served
    with house.client() as client:
        listed = client.history("orders", kinds=["ordered", "held"])
    assert [(one["fact"], one.get("by"), one.get("why")) for one in listed if one["version"] == served][:2] == [
        ("held", None, None),
        ("ordered", "ben", "sale"),
    ]
    shown = penstock("why", "orders", home=tmp_path, url=house.state.address)
    assert f"Version {served:,} of orders" in shown.stderr
    assert "Updates are held back by hand by ben: sale." in shown.stderr, "the newest refusal is told"
    shown = penstock("history", "orders", "--kind", "ordered", home=tmp_path, url=house.state.address)
    assert "refunds doubled" in shown.stdout

    # The hold outlives the process, and what is ordered while nothing runs is done with the next start.
    assert house.stop() == 0
    assert order("rollback", "orders", "999999")[0] == 1
    code, said = order("rollback", "orders", "--json", "--reason", "at night")
    assert code == 0, said
    assert order("hold", "orders", "--by", "eve")[0] == 0, "that it is refused is only known later"
    with running(files, house.data) as again:
        frame = status(again)
        assert (frame["model"]["version"], frame["model"]["held_by"]) == (served + 1, "ben")
        with again.client() as client:
            until(lambda: client.history("orders", kinds=["order_refused"])[0]["by"] == "eve", "nobody was told")
            told = client.history("orders", kinds=["order_refused"])[0]["told"]
        assert told == "Updates are held back by hand already, by ben"
        done = penstock("resume", "orders", "--json", "--data", str(house.data), home=tmp_path)
        assert json.loads(done.stdout)["done"], done.stderr
        _await_publication(again, served + 1)
        verified = penstock(
            "verify", "orders", str(served + 1), "--from-start", "--data", str(house.data), home=tmp_path
        )
        assert verified.returncode == 0, verified.stdout + verified.stderr


def _await_snapshots(up: Up, count: int) -> None:
    """Taught on until there are so many: they come with checkpoints, and those by the processor's time."""
    seeds = iter(range(1000, 2000))

    def are_there() -> bool:
        teach(up, 200, next(seeds))
        return len(snapshots(up.data)) >= count

    until(are_there, "no snapshot was written")


def _await_publication(up: Up, served: int) -> None:
    """Taught on, the service is published again when what it learned has proved itself."""
    seeds = iter(range(10, 1000))

    def is_published() -> bool:
        teach(up, 40, next(seeds))
        return bool(status(up)["model"]["version"] > served)

    until(is_published, "it was never published again")


def test_an_idle_learner_is_woken_by_an_order(house: Up, tmp_path: Path) -> None:
    from penstock.publish.asked.orders import Order, answered, ask

    def obeyed(what: str) -> Callable[[], bool]:
        file = ask(house.data / "orders" / "orders", Order(what=what, by="ann"))  # type: ignore[arg-type]
        return lambda: answered(file) is not None

    for _ in range(5):
        until(obeyed("hold"), "the order was not obeyed", timeout_s=10.0)
        until(obeyed("resume"), "the order was not obeyed", timeout_s=10.0)
