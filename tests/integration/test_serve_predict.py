"""Predictions over HTTP: the numbers of the newest version, with ids that feedback can name."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from penstock.events import Kind, Version
from penstock.learn.fast.model import FastModel
from penstock.learn.fast.predictor import BlockPredictor
from penstock.serve.decode import Decoder, Media
from penstock.spec import Feature, Learn, Serve, Spec
from penstock.testing.server import ServerProcess

NUMBERS = {"x": Feature(type="number"), "y": Feature(type="number")}
SMALL = Learn(random_features=8)
BINARY = Spec(name="two", task="binary", features=NUMBERS, learn=SMALL)
DURABLE = Serve(record_predictions="durable", quantiles=(0.1, 0.5, 0.9))
FLOW = Spec(name="flow", task="regression", features=NUMBERS, learn=SMALL, serve=DURABLE)
QUIET = Spec(name="quiet", task="multiclass", features=NUMBERS, learn=SMALL, serve=Serve(record_predictions="never"))
CALLS = Spec(name="calls", task="counts", features=NUMBERS, learn=SMALL, serve=Serve(quantiles=(0.5,)))
SPECS = {spec.name: spec for spec in (BINARY, FLOW, QUIET, CALLS)}


def taught(spec: Spec, seed: int = 0) -> FastModel:
    model = FastModel(spec)
    generator = np.random.default_rng(seed)
    label = {
        "binary": lambda x: str(int(x > 0)).encode(),
        "regression": lambda x: str(x).encode(),
        "counts": lambda x: str(int(8 + 2 * x)).encode(),
    }.get(spec.task, lambda x: b'"up"' if x > 0 else b'"down"')
    lines = [
        b'{"features": {"x": %f, "y": %f}, "label": %s}' % (x, y, label(x)) for x, y in generator.normal(size=(50, 2))
    ]
    model.learn(Decoder(spec).decode(Kind.EXAMPLE, b"\n".join(lines), Media.NDJSON, 0.0))
    return model


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("predict"), *SPECS.values()) as running:
        for name, spec in SPECS.items():
            refused = running.post(f"/v1/{name}/predict", {"features": {"x": 1}})
            assert (refused.status, refused.headers["Retry-After"]) == (503, "1")
            assert refused.json()["type"] == "urn:penstock:problem:not-ready"
            running.publish(name, 3, taught(spec), position={0: 17, 1: 5})
        yield running


def test_the_answer_is_the_newest_version_s(server: ServerProcess) -> None:
    answer = server.post("/v1/two/predict", {"features": {"x": 0.3, "y": -1}})
    assert answer.status == 200
    assert answer.headers["Penstock-Position"] == "0:17,1:5"
    said = answer.json()
    batch = Decoder(BINARY).decode(Kind.PREDICTION, b'{"features": {"x": 0.3, "y": -1}}', Media.JSON, 0.0)
    block = taught(BINARY).freeze(Version(3), {})
    expected = BlockPredictor(block, BINARY).predict(batch).probabilities
    assert expected is not None
    assert said["probabilities"] == pytest.approx({"0": expected[0, 0], "1": expected[0, 1]}, abs=1e-12)
    assert (said["version"], said["label"]) == (3, str(expected[0].argmax()))


def test_many_are_answered_in_order_in_every_format(server: ServerProcess) -> None:
    rows = [{"x": x / 10, "y": 1.0} for x in range(-20, 20)]
    table = pa.table({"x": [r["x"] for r in rows], "y": [r["y"] for r in rows]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    lines = b"\n".join(b'{"features": {"x": %f, "y": 1}}' % row["x"] for row in rows)
    answers = [
        server.post("/v1/two/predict", {"instances": [{"features": row} for row in rows]}),
        server.post("/v1/two/predict", [{"features": row} for row in rows]),
        server.request("POST", "/v1/two/predict", lines, "application/x-ndjson"),
        server.request("POST", "/v1/two/predict", bytes(sink.getvalue()), "application/vnd.apache.arrow.stream"),
    ]
    found = [[p["probabilities"]["1"] for p in answer.json()["predictions"]] for answer in answers]
    assert len(found[0]) == 40
    for other in found[1:]:
        assert other == pytest.approx(found[0], abs=1e-9)
    singles = [server.post("/v1/two/predict", {"features": row}).json()["probabilities"]["1"] for row in rows[::13]]
    # Random features are computed in 32 bits, and a row alone takes another path through them than a row of many.
    assert singles == pytest.approx(found[0][::13], abs=1e-6)


def test_concurrent_requests_get_their_own_answers_and_unique_ids(server: ServerProcess) -> None:
    alone = [server.post("/v1/two/predict", {"features": {"x": n / 50}}).json() for n in range(100)]

    def ask(number: int) -> dict[str, object]:
        answer = server.post("/v1/two/predict", {"features": {"x": number / 50}})
        assert answer.status == 200
        return dict(answer.json())

    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(ask, range(100)))
    for one, other in zip(alone, together, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=1e-9)
    assert len({answer["id"] for answer in alone + together}) == 200


def test_a_new_version_answers_from_the_next_request_on(server: ServerProcess) -> None:
    before = server.post("/v1/two/predict", {"features": {"x": 0.5}}).json()
    server.publish("two", 4, taught(BINARY, seed=9), position={0: 99})
    after = server.post("/v1/two/predict", {"features": {"x": 0.5}})
    assert (before["version"], after.json()["version"]) == (3, 4)
    assert after.headers["Penstock-Position"] == "0:99"
    assert after.json()["probabilities"] != before["probabilities"]
    server.publish("two", 3, taught(BINARY), position={0: 17, 1: 5})


def test_answers_are_recorded_with_their_version_so_that_feedback_can_come(server: ServerProcess) -> None:
    said = server.post("/v1/two/predict", {"features": {"x": 0.125}, "source": "till"}).json()
    named = server.post("/v1/two/predict", {"features": {"x": 0.25}, "id": "mine"}).json()
    assert named["id"] == "mine"
    # The record follows behind the answer; an acknowledged event that was sent later stands behind it in the log.
    assert server.post("/v1/two/feedback", {"id": said["id"], "label": 1}).status == 201
    recorded = {
        batch.ids[row]: (batch.numbers[row, 0], int(batch.versions[row]), batch.sources and batch.sources[row])
        for batch in server.logged("two", Kind.PREDICTION)
        if batch.ids is not None and batch.versions is not None
        for row in range(len(batch))
    }
    assert recorded[said["id"]] == (0.125, 3, "till")
    (record,) = [b for b in server.logged("two", Kind.PREDICTION) if b.ids is not None and said["id"] in b.ids]
    block = taught(BINARY).freeze(Version(3), {})
    told = BlockPredictor(block, BINARY).predict(record).said
    assert told is not None
    assert record.said is not None
    row = (record.ids or []).index(said["id"])
    np.testing.assert_allclose(record.said[row], told[row], atol=1e-3)
    assert record.said.nbytes < 128 * len(record)
    assert recorded["mine"] == (0.25, 3, None)


def test_a_durable_record_is_there_before_the_answer(server: ServerProcess) -> None:
    for number in range(5):
        said = server.post("/v1/flow/predict", {"features": {"x": 1}}).json()
        assert list(said["quantiles"]) == ["0.1", "0.5", "0.9"]
        assert list(said["quantiles"].values()) == sorted(said["quantiles"].values())
        assert set(said) == {"id", "version", "mean", "spread", "low", "high", "quantiles"}
        assert said["low"] < said["mean"] < said["high"]
        ids = [i for batch in server.logged("flow", Kind.PREDICTION) for i in batch.ids or ()]
        assert ids[-1] == said["id"]
        assert len(ids) == number + 1


def test_counts_are_answered_with_counts_and_nothing_else_is_taken_for_one(server: ServerProcess) -> None:
    said = server.post("/v1/calls/predict", {"features": {"x": 0.5, "y": 0}, "id": "call"}).json()
    assert set(said) == {"id", "version", "mean", "spread", "low", "high", "quantiles"}
    assert 4 < said["mean"] < 16
    assert said["low"] <= said["quantiles"]["0.5"] <= said["high"]
    assert all(float(said[end]).is_integer() for end in ("low", "high"))
    refused = server.post("/v1/calls/feedback", {"id": "call", "label": -3})
    assert (refused.status, refused.json()["pointer"]) == (422, "/label")
    assert "a count: a whole number, 0 or more" in refused.json()["detail"]
    assert server.post("/v1/calls/feedback", {"id": "call", "label": 12}).status == 201
    schemas = server.get("/openapi.json")["components"]["schemas"]
    assert schemas["calls.label"] == {"type": "integer", "minimum": 0, "maximum": 2**53}
    assert schemas["calls.answer"]["properties"].keys() >= {"mean", "quantiles"}


def test_where_nothing_is_recorded_nothing_is(server: ServerProcess) -> None:
    said = server.post("/v1/quiet/predict", {"features": {"x": 1}}).json()
    assert set(said["probabilities"]) == {"up", "down"}
    assert said["label"] in ("up", "down")
    assert server.post("/v1/quiet/examples", {"features": {}, "label": "up"}).status == 201
    assert server.count("quiet", Kind.PREDICTION) == 0


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b'{"features": {"z": 1}}', "/features/z"),
        (b'{"instances": [{"features": {}}, {"features": {"x": "a"}}]}', "/instances/1/features/x"),
        (b'{"features": {}, "label": 1}', "/label"),
    ],
)
def test_what_cannot_be_asked(server: ServerProcess, body: bytes, pointer: str) -> None:
    answer = server.request("POST", "/v1/two/predict", body)
    assert (answer.status, answer.json()["pointer"]) == (422, pointer)


def test_ids_are_never_given_twice_whatever_happens_to_the_process(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, BINARY) as server:
        server.publish("two", 1)
        ids = []
        for _ in range(3):
            ids += [server.post("/v1/two/predict", {"features": {}}).json()["id"] for _ in range(3)]
            server.kill()
            server.start()
        assert len(set(ids)) == 9


def test_predictions_go_on_while_versions_and_events_pour_in(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, BINARY) as server:
        model = taught(BINARY)
        server.publish("two", 1, model)
        ends = time.monotonic() + 1.5

        def ask() -> list[int]:
            versions = []
            while time.monotonic() < ends:
                answer = server.post("/v1/two/predict", {"features": {"x": 1}})
                assert answer.status == 200
                versions.append(answer.json()["version"])
            return versions

        def send() -> int:
            sent = 0
            while time.monotonic() < ends:
                body = [{"features": {"x": 1}, "label": 1}] * 100
                assert server.post("/v1/two/examples", body).status == 201
                sent += 100
            return sent

        with ThreadPoolExecutor(3) as pool:
            asking, sending = [pool.submit(ask) for _ in range(2)], pool.submit(send)
            version = 1
            while time.monotonic() < ends:
                version += 1
                server.publish("two", version, model)
                time.sleep(0.005)
            for answered in asking:
                assert answered.result() == sorted(answered.result())
            sent = sending.result()
            assert server.count("two") == sent
        assert server.post("/v1/two/predict", {"features": {}}).json()["version"] == version


def test_before_its_first_class_a_service_answers_with_none_and_can_hear_of_it(tmp_path: Path) -> None:
    spec = Spec(name="fresh", task="multiclass", features=NUMBERS, learn=SMALL)
    with ServerProcess(tmp_path, spec) as running:
        running.publish("fresh", 1, FastModel(spec))
        answer = running.post("/v1/fresh/predict", {"features": {"x": 1}})
        assert answer.status == 200
        assert (answer.json()["label"], answer.json()["probabilities"]) == (None, {})
        feedback = running.post("/v1/fresh/feedback", {"id": answer.json()["id"], "label": "first"})
        assert feedback.status == 201
