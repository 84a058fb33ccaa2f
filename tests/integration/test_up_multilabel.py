"""A service with several classes together under a real `penstock up`: files, questions, answers, a kill, a replay."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from up_process import Up, all_learned, penstock, running, until

from penstock.client import Client
from penstock.errors import Refused

SERVICE = """name: posts
task: multilabel
features: {x: number, y: number}
label: {name: tags, classes_max: 4}
learn: {random_features: 16, checkpoint_every: 1s}
consolidate: {when: never}
"""
NAMES = ("news", "sport", "long read")


def rows(n: int, seed: int) -> list[tuple[float, float, list[str]]]:
    """News where x is above 0, sport where y is, and a long read where both are below -1."""
    points = np.random.default_rng(seed).normal(size=(n, 2)).round(3).tolist()
    return [(x, y, [name for name, there in zip(NAMES, tags(x, y), strict=True) if there]) for x, y in points]


def tags(x: float, y: float) -> tuple[bool, bool, bool]:
    return x > 0.0, y > 0.0, x < -1.0 and y < -1.0


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Up]:
    (tmp_path / "posts.yaml").write_text(SERVICE)
    with running(tmp_path / "posts.yaml", tmp_path / "data") as up:
        yield up


def test_sets_are_ingested_asked_for_and_told_and_learned_also_after_a_kill(house: Up, tmp_path: Path) -> None:
    url = house.state.address
    file = tmp_path / "posts.csv"
    file.write_text("x,y,tags\n" + "".join(f"{x},{y},{';'.join(names)}\n" for x, y, names in rows(1500, 1)))
    done = penstock("ingest", "posts", str(file), home=tmp_path, url=url)
    assert done.returncode == 0, done.stderr
    with house.client() as client:
        all_learned(client, ["posts"])
        assert_answers(client)
        tell(client, 300)
        all_learned(client, ["posts"])
        house.kill(house.state.learners["posts"])
        client.examples("posts", [{"features": {"x": 1.0, "y": 1.0}, "label": ["news", "sport"]}])
        all_learned(client, ["posts"])
        assert_answers(client)
        model = client.status("posts")["model"]
        assert model["accuracy"] > 0.75
        assert model["hamming_loss"] < 0.1
        assert model["micro_f1"] > 0.9
        assert client.status("posts")["feedback"]["learned"] == 300
        with pytest.raises(Refused, match="list of classes"):
            client.feedback("posts", {"id": "p", "label": "news"})
        with pytest.raises(Refused, match="classes_max"):
            client.examples("posts", [{"features": {"x": 1.0}, "label": ["news", "other", "another"]}])
    shown = penstock("status", "posts", home=tmp_path, url=url)
    assert "micro F1" in shown.stdout
    assert "Hamming loss" in shown.stdout
    assert "update" in penstock("versions", "posts", home=tmp_path, url=url).stdout
    newest = json.loads(penstock("versions", "posts", "--json", home=tmp_path, url=url).stdout)[0]["version"]
    again = ("verify", "posts", str(newest), "--from-start", "--data", str(house.data))
    verified = penstock(*again, home=tmp_path)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def assert_answers(client: Client) -> None:
    for x, y in ((1.5, 1.5), (-1.5, 1.5), (1.5, -1.5), (-2.0, -2.0), (-0.5, -0.5)):
        answer = client.predict("posts", {"x": x, "y": y})
        assert sorted(answer["probabilities"]) == sorted(NAMES)
        assert set(answer["label"]) == {name for name, there in zip(NAMES, tags(x, y), strict=True) if there}
        assert answer["label"] == sorted(answer["label"], key=answer["probabilities"].__getitem__, reverse=True)


def tell(client: Client, n: int) -> None:
    asked = rows(n, 2)
    answers = client.predict_many("posts", [{"x": x, "y": y} for x, y, _ in asked])
    told = [{"id": answer["id"], "label": names} for answer, (_, _, names) in zip(answers, asked, strict=True)]
    assert client.feedback("posts", told).accepted == n


def test_the_command_line_shows_sets_and_takes_them(house: Up, tmp_path: Path) -> None:
    url = house.state.address
    given = "\n".join(json.dumps({"x": x, "y": y, "tags": names}) for x, y, names in rows(400, 3)).encode()
    assert penstock("ingest", "posts", "-", home=tmp_path, url=url, given=given).returncode == 0
    with house.client() as client:
        all_learned(client, ["posts"])
    asked = penstock("predict", "posts", '{"x": 2, "y": 2}', home=tmp_path, url=url)
    title, row = asked.stdout.splitlines()
    assert title.split()[:3] == ["LABEL", "MOST", "LIKELY"]
    assert row.startswith(("news;sport", "sport;news"))
    assert "LABEL..." in asked.stderr
    answer = json.loads(penstock("predict", "posts", '{"x": 2, "y": 2}', "--json", home=tmp_path, url=url).stdout)
    assert set(answer["label"]) == {"news", "sport"}
    for words, said in (
        (["news", "long read"], "was news and long read"),
        (["--none"], "was of no class"),
    ):
        name = json.loads(penstock("predict", "posts", '{"x": 0}', "--json", home=tmp_path, url=url).stdout)["id"]
        told = penstock("feedback", "posts", name, *words, home=tmp_path, url=url)
        assert told.returncode == 0, told.stderr
        assert said in told.stdout
    for words in ([], ["news", "--none"]):
        refused = penstock("feedback", "posts", "p", *words, home=tmp_path, url=url)
        assert refused.returncode == 2
        assert "--none" in refused.stderr
    with house.client() as client:
        document = client.get("/openapi.json")["components"]["schemas"]
        assert document["posts.label"]["type"] == "array"
        assert document["posts.answer"]["properties"]["label"]["type"] == "array"


SLOW = """name: rings
task: multilabel
features: {a: number, b: number}
label: {name: inside}
learn: {random_features: 0, half_lives: [64, inf], checkpoint_every: 1s}
consolidate: {when: schedule, every_events: 500, replay: 400, max: 4s}
gate: {good_after_events: 64, shadow_events_max: 400, forgetting_max: 0.9, canary: []}
"""


class Sender:
    """Sends points with the rings that they are in, which overlap."""

    def __init__(self, client: Client) -> None:
        self._client, self._rng = client, np.random.default_rng(5)

    def send(self, n: int) -> None:
        events = []
        for a, b in self._rng.normal(size=(n, 2)).tolist():
            away = a * a + b * b
            rings = [name for name, low, high in (("in", 0.0, 1.2), ("mid", 0.6, 2.4)) if low < away < high]
            events.append({"features": {"a": a, "b": b}, "label": rings})
        self._client.examples("rings", events)


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="no bases here")
@pytest.mark.timeout(300)
def test_a_base_for_several_classes_is_trained_shadowed_and_settled(tmp_path: Path) -> None:
    (tmp_path / "rings.yaml").write_text(SLOW)
    with running(tmp_path / "rings.yaml", tmp_path / "data") as up, up.client() as client:
        sender = Sender(client)
        sender.send(520)

        def is_settled() -> bool:
            sender.send(20)
            base = client.status("rings")["base"]
            assert not base["failure"], base["failure"]
            return base["settled"] > 0 and base["shadow"] is None

        until(is_settled, up.output.read_text(), timeout_s=200.0)
        all_learned(client, ["rings"])
        base = client.status("rings")["base"]
        promotions = [r["version"] for r in client.versions("rings", limit=1000) if r["cause"] == "promotion"]
        assert bool(promotions) == (base["id"] is not None)
        assert str(base["outcome"]).startswith("The new base is " + ("promoted" if promotions else "given up"))
        # Nothing linear tells rings apart, so that a base is what finds them.
        assert promotions, base
        middle = client.predict("rings", {"a": 0.1, "b": 0.1})
        assert middle["label"] == ["in"]
        up.kill(up.state.learners["rings"])
        sender.send(10)
        all_learned(client, ["rings"])
        assert client.status("rings")["base"]["id"] == base["id"]
