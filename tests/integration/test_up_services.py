"""Three services under one `penstock up`, fed from files, while their processes are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from up_process import PENSTOCK, SERVICES, Up, all_learned, environment, penstock, running, until, write_services

from penstock.client import NDJSON, Client
from penstock.control.folder import read_state, state_path
from penstock.errors import Refused, Unreachable


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return write_services(tmp_path / "services")


class Sender:
    """Sends events with ids to one service until it is told to stop, each again until it is acknowledged."""

    def __init__(self, data: Path, service: str, event: dict[str, object]) -> None:
        self.data, self.service, self.event = data, service, event
        self.acknowledged = 0
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> int:
        self._enough.set()
        self._thread.join()
        return self.acknowledged

    def _run(self) -> None:
        while not self._enough.is_set():
            rows = [self.event | {"id": f"e{self.acknowledged + i}"} for i in range(20)]
            self._send(b"\n".join(json.dumps(row).encode() for row in rows))
            self.acknowledged += len(rows)

    def _send(self, body: bytes) -> None:
        while True:
            state = read_state(self.data)
            try:
                if state is not None:
                    with Client(state.address, timeout_s=5.0) as client:
                        client.examples(self.service, body, media=NDJSON)
                    return
            except (Unreachable, Refused) as error:
                if not error.retryable:
                    raise
            threading.Event().wait(0.02)


def test_kill_anything_and_nothing_that_was_acknowledged_is_lost(files: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    events: dict[str, dict[str, object]] = {
        "fraud": {"features": {"amount": 3.5, "city": "rome"}, "label": 1},
        "price": {"features": {"area": 80.0, "view": [1.0, 0.5]}, "label": 250.0},
        "kind": {"features": {"a": 1.0, "b": 2.0}, "label": "b"},
    }
    with running(files, data) as up:
        senders = [Sender(data, service, event) for service, event in events.items()]
        try:
            at_work(senders)
            up.kill(up.state.learners["fraud"])
            at_work(senders)
            up.kill(up.state.servers["0"])
            at_work(senders)
            up.process.kill()
            up.process.wait()
            with running(files, data) as again:
                at_work(senders)
                acknowledged = {sender.service: sender.stop() for sender in senders}
                with again.client() as client:
                    assert all_learned(client) == acknowledged
                    for service, event in events.items():
                        answer = client.predict(service, event["features"])  # type: ignore[arg-type]
                        assert answer["version"] > 1
                assert again.stop() == 0
        finally:
            for sender in senders:
                sender.stop()


def at_work(senders: list[Sender]) -> None:
    """Wait until each sender has got acknowledgements from now on."""
    before = [sender.acknowledged for sender in senders]
    until(
        lambda: all(sender.acknowledged >= count + 100 for sender, count in zip(senders, before, strict=True)),
        "events are not acknowledged any more",
    )


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    home = tmp_path_factory.mktemp("house")
    with running(write_services(home / "services"), home / "data") as up:
        yield up


def test_a_second_up_on_the_folder_is_refused_with_the_holders_pid(house: Up) -> None:
    home = house.data.parent
    refused = penstock("up", str(home / "services"), "--data", str(house.data), "--port", "0", home=home)
    assert refused.returncode == 1
    assert f"{house.data} is in use by process {house.process.pid}" in refused.stderr
    assert house.client().is_ready()


def test_a_port_that_is_taken_is_named(house: Up, tmp_path: Path) -> None:
    port = house.state.address.rpartition(":")[2]
    files = write_services(tmp_path / "services")
    refused = penstock("up", str(files), "--data", str(tmp_path / "data"), "--port", port, home=tmp_path)
    assert refused.returncode == 1
    assert refused.stderr.startswith(
        f"Error: Nothing can be served at 127.0.0.1:{port}: address already in use\nHint: "
    )


def test_feedback_joins_its_prediction_and_the_commands_show_it(house: Up) -> None:
    url, home = house.state.address, house.data.parent
    answered = penstock("predict", "price", '{"area": 70, "view": [1, 2]}', "--json", url=url, home=home)
    answer = json.loads(answered.stdout)
    assert {"id", "version", "mean", "low", "high", "spread", "quantiles"} == answer.keys()
    table = penstock(
        "predict", "price", '{"area": 70, "view": [1, 2]}', "--csv", url=url, home=home
    ).stdout.splitlines()
    assert table[0] == "mean,low,high,quantiles.0.1,quantiles.0.9,version,id"
    assert float(table[1].split(",")[3]) <= float(table[1].split(",")[4])
    with house.client() as client:
        before = client.status("price")["feedback"]["learned"]
        told = penstock("feedback", "price", answer["id"], "210.5", url=url, home=home)
        assert told.returncode == 0, told.stderr
        until(lambda: client.status("price")["feedback"]["learned"] == before + 1, "the feedback was not learned")
        version = client.status("price")["model"]["version"]
    # Receipts are written a little after what they tell of.
    until(lambda: penstock("why", "price", str(version), url=url, home=home).returncode == 0, "there is no receipt")
    why = penstock("why", "price", str(version), url=url, home=home)
    assert why.returncode == 0, why.stderr
    assert f"Version {version} of price" in why.stderr
    assert "learned from the log at" in why.stdout
    listed = penstock("versions", "price", "--csv", "--limit", "1", url=url, home=home).stdout.splitlines()
    assert listed[0].startswith("version,when,cause")
    assert listed[1].startswith(f"{version},")
    shown = penstock("status", "price", "--json", url=url, home=home)
    assert json.loads(shown.stdout)["model"]["version"] == version
    assert shown.returncode == 0
    number = penstock("feedback", "price", answer["id"], "much", url=url, home=home)
    assert number.returncode == 2
    assert "predicts a number, and 'much' is none" in number.stderr


def test_what_is_not_there_is_said_and_where_it_may_be_found(house: Up) -> None:
    url, home = house.state.address, house.data.parent
    unknown = penstock("status", "nothing", url=url, home=home)
    assert unknown.returncode == 1
    assert "no service 'nothing'" in unknown.stderr
    assert all(name in unknown.stderr for name in SERVICES)
    version = penstock("why", "kind", "999999", url=url, home=home)
    assert version.returncode == 1
    assert "no version 999999" in version.stderr
    which = penstock("versions", url=url, home=home)
    assert which.returncode == 2
    assert "Say which service: fraud, kind, price" in which.stderr
    nobody = penstock("status", "--url", "http://127.0.0.1:1", home=home)
    assert nobody.returncode == 3
    assert nobody.stderr.splitlines() == [
        "Error: No server answers at http://127.0.0.1:1: connection refused",
        "Hint: Start one with: penstock up service.yaml",
    ]


def test_commands_find_the_house_by_its_data_folder(house: Up) -> None:
    home = house.data.parent
    env = environment(home, PENSTOCK_DATA=str(house.data))
    found = subprocess.run([*PENSTOCK, "status", "--json"], capture_output=True, env=env, cwd=home, timeout=60)
    assert sorted(frame["service"] for frame in json.loads(found.stdout)) == sorted(SERVICES)


def test_a_spec_that_contradicts_what_was_learned_is_refused_and_other_settings_may_change(tmp_path: Path) -> None:
    files = tmp_path / "one.yaml"
    data = tmp_path / "data"
    text = (
        "name: one\ntask: regression\nfeatures: {x: number}\nlearn: {random_features: 8, checkpoint_every: 1h}\n"
        "gate: {anchors: 64}\n"
    )
    files.write_text(text)
    with running(files, data) as up, up.client() as client:
        for _ in range(8):
            client.examples("one", [{"features": {"x": float(x)}, "label": float(x)} for x in range(64)])
        until(lambda: client.status("one")["events"]["learned"] == 512, "not everything was learned")
        up.process.kill()
        up.process.wait()
    files.write_text(text.replace("x: number", "x: number, z: number").replace("8", "9"))
    refused = penstock("up", str(files), "--data", str(data), "--port", "0", home=tmp_path)
    assert refused.returncode == 2
    assert "learn.random_features, features.z changed" in refused.stderr
    # What was learned before the kill is repeated with the anchors that there were, and some events kept back for them.
    files.write_text(text.replace("anchors: 64", "alpha: 0.01") + "serve: {record_predictions: never}\n")
    with running(files, data) as up, up.client() as client:
        assert client.spec("one").gate.alpha == 0.01
        client.examples("one", [{"features": {"x": float(x)}, "label": float(x)} for x in range(64)])
        until(lambda: client.status("one")["events"]["learned"] == 576, "it did not go on")
        version = client.status("one")["model"]["version"]
        assert up.stop() == 0
    verified = penstock("verify", "one", str(version), "--from-start", "--data", str(data), home=tmp_path)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def test_faults_of_all_files_are_said_before_anything_starts(tmp_path: Path) -> None:
    files = write_services(tmp_path / "services")
    (files / "bad.yaml").write_text("name: bad\ntask: binry\nfeatures: {x: number}\n")
    (files / "worse.yaml").write_text("name: fraud\n\tx\n")
    refused = penstock("up", str(files), "--data", str(tmp_path / "data"), home=tmp_path)
    assert refused.returncode == 2
    assert (
        "bad.yaml:2:7: task: must be one of binary, counts, multiclass, multilabel, regression; not 'binry'"
        in refused.stderr
    )
    assert "worse.yaml:2:1: not YAML: " in refused.stderr
    assert not (tmp_path / "data").exists()


def test_ctrl_c_on_the_whole_group_drains_in_order(files: Path, tmp_path: Path) -> None:
    with running(files / "kind.yaml", tmp_path / "data", "--workers", "2") as up:
        assert len(up.state.servers) == 2
        with up.client() as client:
            client.examples("kind", b'{"features": {"a": 1}, "label": "x"}', media=NDJSON)
        os.killpg(up.process.pid, signal.SIGINT)
        assert up.process.wait(60) == 0
        assert read_state(up.data) is None
        assert "is killed" not in up.output.read_text()


def test_the_house_goes_on_when_its_state_cannot_be_written(files: Path, tmp_path: Path) -> None:
    with running(files, tmp_path / "data") as up:
        before, client = up.state, up.client()
        state_path(up.data).unlink()
        state_path(up.data).mkdir()
        os.kill(before.servers["0"], signal.SIGKILL)
        until(lambda: "cannot be written" in up.output.read_text(), "nothing was said of it")
        assert client.predict("fraud", {"amount": 1.0})["version"] == 1
        state_path(up.data).rmdir()
        os.kill(before.learners["fraud"], signal.SIGKILL)
        until(lambda: read_state(up.data) is not None, "the state was not written again")
        assert not list(up.data.glob("run/.state*"))
        assert up.stop() == 0
