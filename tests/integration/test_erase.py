"""A subject is erased from a service of real processes: nothing of it is left, and what is left is what a service that
never saw it would have."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from up_process import environment, penstock, running, until

from penstock.client import Client
from penstock.learn.journal import RecordedSteps

NAME = "shop"
SERVICE = """\
name: shop
task: binary
features: {amount: number, city: category, note: text, picture: 'vector[2]'}
subject: customer
label: {name: bad, wait: 1h}
learn: {random_features: 16, checkpoint_every: 1s}
"""
SUBJECT = "customer-0815-xyzzy"
ROUNDS = 4
SECRET_FLOATS = [98_765.4321 + i for i in range(3)]
SECRET_TEXTS = ["Qyzzanzibar", "a note that nobody else wrote", SUBJECT, "secret-example-", "secret-question-"]


def events_of(rng: np.random.Generator, count: int, round_: int) -> Iterator[dict[str, Any]]:
    """Examples of many customers, and among them some of the one subject."""
    for i in range(count):
        number = 100 * round_ + i
        amount = float(rng.normal())
        if i % 10 == 3:
            features: dict[str, Any] = {
                "amount": SECRET_FLOATS[number % 3],
                "city": "Qyzzanzibar",
                "note": "a note that nobody else wrote",
                "picture": [SECRET_FLOATS[number % 3], 1.0],
            }
            yield {"features": features, "id": f"secret-example-{number}", "subject": SUBJECT, "label": 1}
        else:
            features = {"amount": amount, "city": "AB"[i % 2], "note": f"word{i % 3}", "picture": [amount, 0.5]}
            yield {"features": features, "id": f"e{number}", "subject": f"c{i % 7}", "label": int(amount > 0)}


def exchange(client: Client, rng: np.random.Generator, round_: int) -> None:
    """Examples one by one and together, and predictions with feedback that does not say whose it is."""
    events = list(events_of(rng, 60, round_))
    client.examples(NAME, events[:40])
    for event in events[40:]:
        client.examples(NAME, event)
    answers: dict[str, int] = {}
    for event in events_of(rng, 20, round_ + 50):
        is_secret = event["subject"] == SUBJECT
        asked = {name: event[name] for name in ("features", "subject")}
        if is_secret:
            asked["id"] = event["id"].replace("example", "question")
        answers[client.post(f"/v1/{NAME}/predict", asked)["id"]] = event["label"]
    client.feedback(NAME, [{"id": asked_id, "label": label} for asked_id, label in answers.items()])


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``before``: a stopped service that knows the subject since its first events; ``data``: the same, erased."""
    home = tmp_path_factory.mktemp("erase")
    (home / "shop.yaml").write_text(SERVICE)
    rng = np.random.default_rng(5)
    with running(home / "shop.yaml", home / "data") as up:
        client = up.client()
        for round_ in range(ROUNDS):
            exchange(client, rng, round_)
            until(lambda: client.status(NAME)["events"]["lag"] == 0, "not everything was taken")
            steps = RecordedSteps(home / "data" / NAME / "steps").last
            folder = home / "data" / NAME / "checkpoints"
            until(lambda s=steps, f=folder: any(int(p.name) >= s - 1 for p in f.glob("[0-9]*")), "no checkpoint came")
        client.close()
        assert up.stop() == 0
    shutil.copytree(home / "data", home / "before")
    done = penstock("erase", NAME, "--subject", SUBJECT, "--json", "--data", "data", home=home)
    assert done.returncode == 0, done.stderr
    (home / "receipt.json").write_text(done.stdout)
    return home


def found_in(folder: Path) -> dict[str, list[str]]:
    """In which files something stands that tells of the subject, as text or as the bytes of numbers."""
    needles = {text: text.encode() for text in SECRET_TEXTS}
    for value in SECRET_FLOATS:
        needles[f"{value} as a double"] = struct.pack("<d", value)
        needles[f"{value} as a single"] = struct.pack("<ff", value, 1.0)
        needles[f"{value} as text"] = repr(value).encode()
    found: dict[str, list[str]] = {}
    for path in (path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        for name, needle in needles.items():
            if needle in content:
                found.setdefault(name, []).append(str(path.relative_to(folder)))
    return found


def test_no_byte_of_the_subject_is_left_in_the_data_folder(home: Path) -> None:
    before = set(found_in(home / "before"))
    assert set(SECRET_TEXTS) <= before, "or the search finds nothing"
    assert sum("double" in name for name in before) == sum("single" in name for name in before) == len(SECRET_FLOATS)
    assert found_in(home / "data") == {}


def test_the_receipt_says_what_was_erased_and_not_whose(home: Path) -> None:
    receipt = json.loads((home / "receipt.json").read_text())
    assert receipt["events"] == {"example": 6 * ROUNDS, "prediction": 2 * ROUNDS, "feedback": 2 * ROUNDS}
    assert sum(stop - start for _, start, stop in receipt["ranges"]) == 10 * ROUNDS
    assert receipt["version"] > receipt["withdrawn"][1] >= receipt["withdrawn"][0] == 1
    kept = json.loads((home / "data" / NAME / "erasures" / "00000001.json").read_text())
    assert kept == receipt


def test_every_version_since_is_rebuilt_and_none_before(home: Path) -> None:
    receipt = json.loads((home / "receipt.json").read_text())
    for options in ((), ("--from-start",)):
        done = penstock("verify", NAME, str(receipt["version"]), *options, "--json", "--data", "data", home=home)
        assert (done.returncode, json.loads(done.stdout)["outcome"]) == (0, "equal"), done.stdout + done.stderr
    done = penstock("verify", NAME, str(receipt["withdrawn"][1]), "--data", "data", home=home)
    assert done.returncode == 3
    assert "were withdrawn by erasure 1" in done.stderr
    done = penstock("lineage", NAME, "2", "--json", "--data", "data", home=home)
    assert json.loads(done.stdout)["receipt"]["cause"] == "erasure"
    done = penstock("fsck", "data", "--json", home=home)
    (report,) = json.loads(done.stdout)
    assert (done.returncode, report["damage"], report["erased"]) == (0, 0, 10 * ROUNDS), done.stdout


def answers_of(files: Path, data: Path) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """What a house on this data folder answers, and its status."""
    rng = np.random.default_rng(11)
    asked = [{"features": event["features"]} for event in events_of(rng, 40, 7)]
    with running(files, data) as up:
        client = up.client()
        predictions = client.post(f"/v1/{NAME}/predict", {"instances": asked})["predictions"]
        status = client.status(NAME)
        client.close()
        assert up.stop() == 0
    return [answer["probabilities"] for answer in predictions], status


def test_it_answers_as_a_service_that_never_saw_the_subject(home: Path, tmp_path: Path) -> None:
    never = never_saw(home, tmp_path / "never")
    ours, status = answers_of(home / "shop.yaml", copied(home / "data", tmp_path / "ours"))
    theirs, _ = answers_of(home / "shop.yaml", never)
    before, _ = answers_of(home / "shop.yaml", copied(home / "before", tmp_path / "before"))
    assert ours == theirs
    assert ours != before
    assert status["health"]["status"] == "ok", status


def test_beside_a_service_that_runs_nothing_is_erased_and_nobody_goes_back_to_what_is_withdrawn(
    home: Path, tmp_path: Path
) -> None:
    copied(home / "data", tmp_path / "data")
    with running(home / "shop.yaml", tmp_path / "data") as up:
        done = penstock("erase", NAME, "--subject", "c1", "--data", "data", home=tmp_path)
        assert (done.returncode, "is in use by process" in done.stderr) == (1, True), done.stderr
        address = up.state.address
        done = penstock("rollback", NAME, "2", "--data", "data", home=tmp_path)
        assert (done.returncode, "Version 2 is not kept" in done.stderr) == (1, True), done.stderr
        done = penstock("why", NAME, "2", home=tmp_path, url=address)
        assert "were withdrawn by erasure 1" in done.stderr
        assert up.stop() == 0


def copied(source: Path, target: Path) -> Path:
    target.mkdir()
    shutil.copytree(source / NAME, target / NAME)
    return target


def never_saw(home: Path, data: Path) -> Path:
    """A data folder of a service that never saw it, made in a process that adds numbers up as a learner does."""
    made = [sys.executable, str(Path(__file__).with_name("never_saw.py")), str(home), NAME, str(data)]
    subprocess.run(made, check=True, env=environment(home), timeout=60)
    return data
