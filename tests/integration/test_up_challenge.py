"""`penstock challenge` of a service under `penstock up`, and the start after the promotion."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from up_process import all_learned, penstock, running, until

from penstock.client import NDJSON, Client

SERVICE = """
name: rings
task: binary
features: {a: number, b: number}
label: {name: inside}
learn: {random_features: 0, half_lives: [64, inf], tree_window: 0, checkpoint_every: 1s}
consolidate: {when: never}
gate: {good_after_events: 64, forgetting_max: 0.9, canary: []}
"""


def send(client: Client, chance: random.Random, n: int) -> None:
    """Events in which the label depends on how far from the middle a point is."""
    points = [(chance.gauss(0, 1), chance.gauss(0, 1)) for _ in range(n)]
    rows = [{"features": {"a": a, "b": b}, "label": int(a * a + b * b < 1.4)} for a, b in points]
    client.examples("rings", b"\n".join(json.dumps(row).encode() for row in rows), media=NDJSON)


@pytest.mark.timeout(180)
def test_a_challenge_is_followed_to_its_promotion_and_outlives_the_service_file(tmp_path: Path) -> None:
    file, other, data = tmp_path / "rings.yaml", tmp_path / "other.yaml", tmp_path / "data"
    file.write_text(SERVICE)
    other.write_text(SERVICE.replace("random_features: 0", "random_features: 32"))
    chance = random.Random(5)
    with running(file, data) as up:
        client = up.client()
        send(client, chance, 400)
        all_learned(client, ["rings"])
        assert up.state.consolidators == {}, "nothing is to be trained, and nothing to be tried"
        asked = penstock("challenge", str(other), "--data", str(data), home=tmp_path)
        assert asked.returncode == 0, asked.stderr
        assert "Asked rings to try learn.random_features 32 instead of 0." in asked.stderr

        def is_settled() -> bool:
            send(client, chance, 20)
            base = client.status("rings")["base"]
            assert not base["failure"], base["failure"]
            return bool(base["outcome"])

        until(is_settled, up.output.read_text(), timeout_s=110.0)
        base = client.status("rings")["base"]
        assert base["outcome"].startswith("The new configuration is promoted: ")
        assert base["configuration"]["random_features"] == "32"
        until(lambda: up.state.consolidators == {}, "who has tried them does not rest")
        client.close()
        assert up.stop() == 0
    with running(file, data) as up:
        assert "rings answers with learn.random_features 32, as a challenge has put in force" in up.output.read_text()
        client = up.client()
        assert client.status("rings")["base"]["id"] == base["id"]
        client.close()
