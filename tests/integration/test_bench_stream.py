"""The benchmark's own instruments: what it calls fresh, what it sends, and that a run's figures fit together."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import msgspec
import numpy as np
import pytest

from penstock.cli.benchmarks import floors, load, machine, peers, synthetic
from penstock.cli.benchmarks.connection import LoadFailed
from penstock.cli.benchmarks.report import Freshness, Report, freshness_rows
from penstock.cli.benchmarks.running import Running, running
from penstock.cli.benchmarks.stream import PACED_REQUESTS_PER_S, Load, Settings
from penstock.events import Kind
from penstock.publish.weights.live_files import live_path
from penstock.serve.decode import Decoder, Media


def test_freshness_runs_from_the_acknowledgement_to_the_first_answer_that_includes_it() -> None:
    acknowledged = [(1.0, {"0": 10}), (1.5, {"0": 20}), (4.0, {"0": 25})]
    # The second answer goes back behind the first, as after a rollback; the last acknowledgement came after its answer.
    seen = [(0.9, b"0:9"), (2.0, b"0:15"), (2.5, b"0:5"), (3.0, b"0:30"), (5.0, b"0:30")]

    assert load.freshness_ms(acknowledged, seen) == pytest.approx([1000.0, 1500.0, 0.0])


def test_freshness_waits_for_every_partition() -> None:
    seen = [(1.0, b"0:10"), (2.0, b"0:10, 1:4"), (3.0, b"0:10, 1:5")]

    assert load.freshness_ms([(0.0, {"0": 7, "1": 5})], seen) == pytest.approx([3000.0])


def test_freshness_of_events_that_no_answer_includes_is_a_failure_not_a_figure() -> None:
    with pytest.raises(LoadFailed):
        load.freshness_ms([(0.0, {"0": 7})], [(1.0, b"0:6")])


def test_the_stream_is_seeded_and_the_stated_bayes_accuracy_is_that_of_knowing_the_concept() -> None:
    stream = synthetic.generate(50_000, start=1_000, seed=3)
    again = synthetic.generate(50_000, start=1_000, seed=3)
    assert np.array_equal(stream.numbers, again.numbers)
    assert np.array_equal(stream.labels, again.labels)
    assert not np.array_equal(stream.labels, synthetic.generate(50_000, start=51_000, seed=3).labels)

    # Least squares on a stretch so short that the concept hardly turns comes close to what is stated, and not above it.
    short = synthetic.generate(8_000, seed=3)
    standard = (short.numbers - short.numbers.mean(axis=0)) / short.numbers.std(axis=0)
    weights, *_ = np.linalg.lstsq(standard[:4000], short.labels[:4000] - 0.5, rcond=None)
    accuracy = ((standard[4000:] @ weights > 0) == (short.labels[4000:] == 1)).mean()
    assert short.bayes_accuracy - 0.03 < accuracy < short.bayes_accuracy + 0.02


@pytest.mark.parametrize(("form", "batch"), [("json_single", 1), ("json_batch", 100), ("arrow_batch", 100)])
def test_every_form_carries_the_very_same_events(form: load.Form, batch: int) -> None:
    plan = load.Flood(url="", form=form, batch=batch, start=700, events=300, connections=1)
    expected = synthetic.generate(300, start=700)
    decoder = Decoder(floors.spec())
    media = Media.ARROW if form == "arrow_batch" else Media.JSON

    batches = [decoder.decode(Kind.EXAMPLE, body, media, 0.0) for body in load.bodies_of(plan, 300)]

    assert [len(decoded) for decoded in batches] == [batch] * (300 // batch)
    assert np.array_equal(np.concatenate([decoded.numbers for decoded in batches]), expected.numbers)
    labels = [label for decoded in batches if decoded.labels is not None for label in decoded.labels]
    assert labels == [str(label) for label in expected.labels]


def test_a_peer_that_is_not_installed_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "river", None)
    monkeypatch.setattr(peers, "PEERS", peers.PEERS[:1])

    (river,) = peers.run(synthetic.generate(10), lambda _: None)

    assert river.events_per_s is None
    assert "river" in river.left_out
    assert "penstock[bench]" in river.left_out


def test_peers_learn_the_stream() -> None:
    stream = synthetic.generate(6_000)

    results = peers.run(stream, lambda _: None)

    assert {peer.name for peer in results} == {"river", "vowpal_wabbit", "vowpal_wabbit_file", "sklearn_sgd"}
    for peer in results:
        assert peer.accuracy is not None
        assert 0.6 < peer.accuracy <= stream.bayes_accuracy + 0.02, peer


class _Server(asyncio.Protocol):
    """Refuses three requests, acknowledges 10 events for each other one, and learns 25 when asked for the status."""

    accepted = 0
    learned = 0
    refused: int = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if data.startswith(b"GET"):
            _Server.learned = min(_Server.accepted, _Server.learned + 25)
            body = b'{"events":{"accepted":%d,"learned":%d}}' % (_Server.accepted, _Server.learned)
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        elif _Server.refused < 3:
            _Server.refused += 1
            answer = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
        else:
            _Server.accepted += 10
            answer = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}"
        self.transport.write(answer)  # type: ignore[attr-defined]


def test_a_flood_sends_refused_requests_again_and_ends_when_everything_is_learned() -> None:
    async def run() -> load.Flooded:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(_Server, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        plan = load.Flood(
            url=f"http://127.0.0.1:{port}/v1/s", form="json_batch", batch=10, start=0, events=100, connections=2
        )
        async with server:
            return await load.flood(plan)

    outcome = asyncio.run(run())

    assert (outcome.events, outcome.requests_retried) == (100, 3)
    assert (_Server.accepted, _Server.learned) == (100, 100)
    # Four looks at the status, 25 events each, with a pause between them.
    assert outcome.learned_s >= outcome.accepted_s + 3 * load.POLL_S


class _Mute(asyncio.Protocol):
    """Acknowledges every event, and answers no prediction but the first: when the last event is in."""

    events: int
    accepted = 0
    asking: ClassVar[list[asyncio.BaseTransport]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        if b"/predict " in data:
            _Mute.asking.append(self.transport)
        else:
            _Mute.accepted += 1
            body = b'{"accepted":1,"position":{"0":%d}}' % _Mute.accepted
            head = b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n" % len(body)
            self.transport.write(head + body)  # type: ignore[attr-defined]
        if _Mute.accepted == _Mute.events and len(_Mute.asking) == 1:
            head = b"HTTP/1.1 200 OK\r\nPenstock-Position: 0:%d\r\nContent-Length: 2\r\n\r\n" % _Mute.accepted
            _Mute.asking[0].write(head + b"{}")  # type: ignore[attr-defined]


def test_a_paced_stretch_in_which_no_prediction_is_answered_has_no_time_for_one_and_says_so() -> None:
    _Mute.events = round(2 * 0.3 * PACED_REQUESTS_PER_S)

    async def run() -> Freshness:
        server = await asyncio.get_running_loop().create_server(_Mute, "127.0.0.1", 0)
        where = Running(url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/s", pid=None)
        async with server:
            sender = Load(where, Settings(repeats=1, paced_s=0.3), lambda _: None)
            return await asyncio.to_thread(sender.pace, round(PACED_REQUESTS_PER_S))

    outcome = asyncio.run(run())

    assert (outcome.predictions, outcome.predict_ms) == (1, {})
    assert outcome.freshness_ms["p99"] > 0
    (row,) = freshness_rows([outcome])
    assert row["predict ms"] == "-"


def test_the_machine_is_described(tmp_path: Path) -> None:
    found = machine.describe(tmp_path, probes=3)

    assert found.cores >= 1
    assert found.fdatasync_ms["p50"] > 0
    assert msgspec.json.decode(msgspec.json.encode(found), type=machine.Machine) == found


def test_the_command_runs_a_real_service_and_its_figures_fit_together(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "penstock", "bench", "stream", "--json", "--events", "1000", "--repeats", "1"]
    command += ["--paced", "0.3", "--no-peers", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr.decode()
    report = msgspec.json.decode(done.stdout, type=Report)

    # Learned comes after accepted, and both after the first byte.
    forms = {"json_single": 166, "json_batch_1000": 1000, "arrow_batch_1000": 4000}
    assert {name: found.events for name, found in report.throughput.items()} == forms
    assert all(0 < report.events_per_s[form] <= report.accepted_per_s[form] for form in forms)
    assert set(report.freshness_ms) == set(report.predict_ms) == {"5000", "20000"}
    for found in report.paced.values():
        assert found.predictions > 0
        assert found.predictions_failed == 0
        assert 0 <= found.freshness_ms["p50"] <= found.freshness_ms["p99"]
    assert report.accuracy is not None
    assert report.floors is not None
    assert report.floors.peers == []
    # What was measured is said, and nothing is left behind.
    assert report.machine.cores >= 1
    assert "bench stream" in report.command
    assert list(tmp_path.iterdir()) == []


def test_a_run_leaves_nothing_on_the_disk_or_in_shared_memory(tmp_path: Path) -> None:
    with running(floors.spec(), tmp_path) as service:
        (home,) = tmp_path.iterdir()
        live = live_path(home / "data", "stream")
        assert live.exists()
        assert service.status()["service"] == "stream"
        assert service.cpu_s().keys() - {"consolidator", "governor"} == {"supervisor", "server", "learner"}

    assert list(tmp_path.iterdir()) == []
    assert list(live.parent.glob(f"{live.name}*")) == []


def test_a_service_that_does_not_answer_is_an_error_in_words(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "penstock", "bench", "stream", "--url", "http://127.0.0.1:9/v1/stream"]
    done = subprocess.run([*command, "--folder", str(tmp_path)], capture_output=True, timeout=60, check=False)

    assert done.returncode != 0
    assert done.stdout == b""
    assert b"Traceback" not in done.stderr
    assert b"load" in done.stderr
