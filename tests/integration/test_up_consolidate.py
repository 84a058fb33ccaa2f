"""A service under `penstock up` whose base is trained beside the stream, put in shadow, and promoted or given up."""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path

import pytest
from up_process import Up, all_learned, penstock, running, until

from penstock.client import NDJSON, Client
from penstock.control.folder import is_alive
from penstock.publish.candidates.consolidating import read_consolidating

NEEDED = ("torch", "onnxruntime")
pytestmark = pytest.mark.skipif(any(importlib.util.find_spec(name) is None for name in NEEDED), reason="no bases here")

SERVICE = """
name: rings
task: binary
features: {a: number, b: number}
label: {name: inside}
learn: {random_features: 0, half_lives: [64, inf], checkpoint_every: 1s}
consolidate: {when: WHEN, every_events: 500, replay: 400, max: 4s}
gate: {good_after_events: 64, shadow_events_max: 400, forgetting_max: 0.9, canary: [0.5]}
"""


class Sender:
    """Sends events in which the label depends on how far from the middle a point is."""

    def __init__(self, client: Client) -> None:
        self._client, self._chance = client, random.Random(5)

    def send(self, n: int) -> None:
        rows = []
        for _ in range(n):
            a, b = self._chance.gauss(0, 1), self._chance.gauss(0, 1)
            rows.append({"features": {"a": a, "b": b}, "label": int((a * a + b * b) % 1.6 < 0.8)})
        self._client.examples("rings", b"\n".join(json.dumps(row).encode() for row in rows), media=NDJSON)


def service_file(folder: Path, when: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "rings.yaml").write_text(SERVICE.replace("WHEN", when))
    return folder / "rings.yaml"


def until_settled(up: Up, client: Client, sender: Sender) -> dict[str, object]:
    """Send events until the first candidate is promoted or given up; the slow tier as the frame has it."""

    def is_settled() -> bool:
        sender.send(20)
        base = client.status("rings")["base"]
        assert not base["failure"], base["failure"]
        return base["settled"] > 0 and base["shadow"] is None

    until(is_settled, up.output.read_text(), timeout_s=110.0)
    base: dict[str, object] = client.status("rings")["base"]
    return base


@pytest.mark.timeout(240)
def test_a_base_is_trained_shadowed_and_settled_and_a_killed_learner_comes_back_with_it(tmp_path: Path) -> None:
    with running(service_file(tmp_path, "schedule"), tmp_path / "data") as up:
        client = up.client()
        sender = Sender(client)
        sender.send(520)
        base = until_settled(up, client, sender)
        assert base["outcome"]
        all_learned(client, ["rings"])
        receipts = client.versions("rings", limit=1000)
        promotions = [receipt["version"] for receipt in receipts if receipt["cause"] == "promotion"]
        assert bool(promotions) == (base["id"] is not None)
        assert str(base["outcome"]).startswith("The new base is " + ("promoted" if promotions else "given up"))

        before = client.status("rings")
        up.kill(up.state.learners["rings"])
        sender.send(10)
        all_learned(client, ["rings"])
        after = client.status("rings")
        assert after["base"]["id"] == before["base"]["id"]
        assert after["base"]["outcome"] == before["base"]["outcome"]
        assert after["model"]["version"] == before["model"]["version"] + 1, "one step more, and nothing anew"
        pids = list(up.state.consolidators.values())
        client.close()
        assert up.stop() == 0
    assert not any(is_alive(pid) for pid in pids)


@pytest.mark.timeout(240)
def test_a_training_that_is_asked_for_is_followed_and_one_that_fails_is_told_and_not_tried_at_once(
    tmp_path: Path,
) -> None:
    file = service_file(tmp_path, "request")
    file.write_text(file.read_text().replace("replay: 400", "base: nowhere.module:network"))
    data = tmp_path / "data"
    with running(file, data) as up:
        client = up.client()
        Sender(client).send(40)
        all_learned(client, ["rings"])
        until(lambda: any((data / "rings" / "checkpoints").glob("0*/manifest.json")), "no checkpoint was written")
        told = penstock("consolidate", "rings", "--data", str(data), "--wait", home=tmp_path)
        assert told.returncode == 1
        assert "It failed:" in told.stderr
        assert "nowhere" in told.stderr
        state = read_consolidating(data / "rings" / "consolidation")
        assert (state.phase, state.failures) == ("failed", 1)
        assert state.retry_at > state.since
        frame = client.status("rings")
        assert "nowhere" in frame["base"]["failure"]
        assert frame["health"]["status"] == "ok", "what is served does not depend on a training"
        client.close()


def test_without_a_house_there_is_nobody_to_ask(tmp_path: Path) -> None:
    told = penstock("consolidate", "rings", "--data", str(tmp_path), home=tmp_path)
    assert told.returncode == 1
    assert "nothing runs on" in told.stderr
