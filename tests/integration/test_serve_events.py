"""Examples and feedback over HTTP: what is acknowledged is in the log, and what is refused is not."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import cast

import msgspec
import pyarrow as pa
import pytest

from penstock.events import Kind
from penstock.spec import Feature, Label, Serve, Spec
from penstock.testing.server import ServerProcess

ARROW = "application/vnd.apache.arrow.stream"
NDJSON = "application/x-ndjson"
TWO = Spec(
    name="two",
    task="binary",
    features={"x": Feature(type="number"), "city": Feature(type="category")},
    serve=Serve(body_max_bytes=100_000),
)
FLOW = Spec(name="flow", task="regression", features={"v": Feature(type="vector", width=2)})

BOUND = Spec(
    name="bound",
    task="regression",
    features={"x": Feature(type="number", min=0.0), "city": Feature(type="category", values=("Ulm",))},
    label=Label(max=9.0),
)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("serve"), TWO, FLOW, BOUND) as running:
        yield running


def arrow(**columns: object) -> bytes:
    table = pa.table(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def test_the_acknowledgement_tells_which_events_can_not_be(server: ServerProcess) -> None:
    def told(kind: str, body: object, media: str = "application/json") -> object:
        raw = body if isinstance(body, bytes) else msgspec.json.encode(body)
        answer = server.request("POST", f"/v1/bound/{kind}", raw, media)
        assert answer.status == 201, answer.json()
        return answer.json().get("set_aside"), answer.json().get("why")

    good = {"features": {"x": 1.0, "city": "Ulm"}, "label": 9.0}
    below = {"features": {"x": -1.0}, "label": 1.0}
    elsewhere = {"features": {"city": "Bonn"}, "label": 1.0}
    low = {"event": 1, "reason": "x is -1, below its min of 0"}
    assert told("examples", good) == (None, None)
    assert told("examples", [good, below, elsewhere]) == (
        2,
        [low, {"event": 2, "reason": "city is 'Bonn', which is none of its values"}],
    )
    assert told("examples", b"\n".join(map(msgspec.json.encode, (good, below))), NDJSON) == (1, [low])
    assert told("examples", arrow(x=[1.0, -1.0], label=[1.0, 1.0]), ARROW) == (1, [low])
    count, why = cast("tuple[int, list[object]]", told("examples", [below] * 100))
    assert (count, len(why)) == (100, 10)
    too_much = [{"event": 0, "reason": "label is 10, above its max of 9"}]
    assert told("feedback", {"id": "p", "label": 10.0}) == (1, too_much)
    assert told("feedback", {"id": "p", "retract": True}) == (None, None)


def test_every_format_is_acknowledged_and_kept(server: ServerProcess) -> None:
    before = server.count("two")
    one = {"features": {"x": 1.5, "city": "Ulm"}, "label": 1, "time": 12.5}
    answers = [
        server.post("/v1/two/examples", one),
        server.post("/v1/two/examples", [one, one], Penstock_Source="till"),
        server.request("POST", "/v1/two/examples", msgspec.json.encode(one) + b"\n", NDJSON),
        server.request("POST", "/v1/two/examples", arrow(x=[1.5, 2.5], city=["Ulm", None], label=[1, 0]), ARROW),
    ]
    assert [(a.status, a.json()["accepted"], a.json()["duplicates"]) for a in answers] == [
        (201, 1, 0),
        (201, 2, 0),
        (201, 1, 0),
        (201, 2, 0),
    ]
    positions = [a.json()["position"]["0"] for a in answers]
    assert [b - a for a, b in itertools.pairwise(positions)] == [2, 1, 2]
    batches = server.logged("two")
    kept = [
        (batch.numbers[row, 0], batch.strings[0][row], batch.labels[row], batch.sources and batch.sources[row])
        for batch in batches
        for row in range(len(batch))
        if isinstance(batch.labels, list)
    ][before:]
    assert kept == [
        (1.5, "Ulm", "1", None),
        (1.5, "Ulm", "1", "till"),
        (1.5, "Ulm", "1", "till"),
        (1.5, "Ulm", "1", None),
        (1.5, "Ulm", "1", None),
        (2.5, None, "0", None),
    ]


def test_feedback_and_another_service(server: ServerProcess) -> None:
    assert server.post("/v1/two/feedback", {"id": "0-1-7", "label": True}).json()["accepted"] == 1
    assert server.post("/v1/two/feedback", [{"id": "a", "label": 0}, {"id": "b", "label": 1}]).status == 201
    body = arrow(id=["c"], label=[1])
    assert server.request("POST", "/v1/two/feedback", body, ARROW).status == 201
    assert [i for b in server.logged("two", Kind.FEEDBACK) for i in b.ids or ()] == ["0-1-7", "a", "b", "c"]
    assert server.post("/v1/flow/examples", {"features": {"v": [1, 2]}, "label": 3.5}).status == 201
    (batch,) = server.logged("flow")
    assert (batch.vectors[0].tolist(), batch.labels.tolist()) == ([[1.0, 2.0]], [3.5])  # type: ignore[union-attr]


GOOD = b'{"features": {"x": 1}, "label": 1}'
REFUSED = [
    ("/v1/none/examples", GOOD, "application/json", 404, "unknown-service", None),
    ("/v1/two/exampels", GOOD, "application/json", 404, "no-such-page", None),
    ("/v1/two", GOOD, "application/json", 405, "method-not-allowed", None),
    ("/v1/two/examples", b"x=1", "application/x-www-form-urlencoded", 415, "unsupported-media", None),
    ("/v1/two/examples", b"", "application/json", 400, "malformed", None),
    ("/v1/two/examples", b"", ARROW, 400, "malformed", None),
    ("/v1/two/examples", b'{"features": {"x"', "application/json", 400, "malformed", None),
    ("/v1/two/examples", b'{"features": {"city": "\xff"}, "label": 1}', "application/json", 400, "malformed", None),
    ("/v1/two/examples", arrow(x=[1.0], label=[1])[:-20], ARROW, 400, "malformed", None),
    ("/v1/two/examples", b'{"features": {"z": 1}, "label": 1}', "application/json", 422, "bad-event", "/features/z"),
    ("/v1/two/examples", b'{"features": {"x": "1"}, "label": 1}', "application/json", 422, "bad-event", "/features/x"),
    ("/v1/two/examples", b'{"features": {"x": NaN}, "label": 1}', "application/json", 422, "bad-event", "/features/x"),
    ("/v1/two/examples", b'{"features": {"x": 1e999}, "label": 1}', NDJSON, 422, "bad-event", "/0/features/x"),
    ("/v1/two/examples", arrow(x=[1.0, float("nan")], label=[1, 1]), ARROW, 422, "bad-event", "/1/features/x"),
    ("/v1/two/examples", b'{"features": {"x": 1}}', "application/json", 422, "bad-event", "/label"),
    ("/v1/two/examples", b'{"features": {"x": 1}, "label": "maybe"}', "application/json", 422, "bad-event", "/label"),
    ("/v1/two/examples", b"[" + GOOD + b', {"features": 3}]', "application/json", 422, "bad-event", "/1/features"),
    ("/v1/two/examples", b"[" + GOOD + b"," + GOOD, "application/json", 400, "malformed", None),
    ("/v1/two/examples", b"[]", "application/json", 422, "bad-event", None),
    ("/v1/two/examples", b" " * 100_001, "application/json", 413, "too-large", None),
    ("/v1/two/examples", b" " * 10_000_000, "application/json", 413, "too-large", None),
    ("/v1/two/feedback", b'{"label": 1}', "application/json", 422, "bad-event", "/id"),
]


@pytest.mark.parametrize(("path", "body", "media", "status", "kind", "pointer"), REFUSED)
def test_bad_input_is_refused_with_its_place_and_nothing_is_kept(
    server: ServerProcess, path: str, body: bytes, media: str, status: int, kind: str, pointer: str | None
) -> None:
    before = server.get("/v1/two")["events"]["accepted"]
    answer = server.request("POST", path, body, media)
    problem = answer.json()
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert (answer.status, problem["status"], problem["type"]) == (status, status, f"urn:penstock:problem:{kind}")
    assert problem.get("pointer") == pointer
    assert problem["title"]
    assert problem["detail"]
    assert problem["hint"]
    assert server.get("/v1/two")["events"]["accepted"] == before


def test_what_is_wrong_with_the_request_itself(server: ServerProcess) -> None:
    assert server.request("GET", "/v1/two/examples").headers["Allow"] == "POST"
    assert server.request("DELETE", "/v1/two").status == 405
    compressed = server.request("POST", "/v1/two/examples", GOOD, Content_Encoding="gzip")
    assert compressed.status == 415
    chunked = server.request("POST", "/v1/two/examples", GOOD, Transfer_Encoding="chunked")
    assert chunked.status == 201


def test_an_id_is_kept_once_also_when_it_is_sent_at_the_same_time(server: ServerProcess) -> None:
    def send(number: int) -> tuple[int, int]:
        body = {"features": {"x": number}, "label": 1, "id": f"same-{number % 5}"}
        answer = server.post("/v1/two/examples", [body, body] if number % 2 else body)
        assert answer.status == 201
        return answer.json()["accepted"], answer.json()["duplicates"]

    with ThreadPoolExecutor(16) as pool:
        told = list(pool.map(send, range(100)))
    assert (sum(a for a, _ in told), sum(d for _, d in told)) == (5, 145)
    ids = [i for b in server.logged("two") for i in b.ids or () if i and i.startswith("same-")]
    assert sorted(ids) == [f"same-{n}" for n in range(5)]
    body = arrow(x=[1.0, 2.0, 3.0], label=[1, 1, 1], id=["same-1", "new-1", "new-1"])
    assert server.request("POST", "/v1/two/examples", body, ARROW).json()["duplicates"] == 2


def test_a_class_too_many_is_refused_also_after_a_restart(tmp_path: Path) -> None:
    spec = Spec(name="kinds", task="multiclass", features={"x": Feature(type="number")}, label=Label(classes_max=3))
    with ServerProcess(tmp_path, spec) as server:

        def send(*labels: str) -> int:
            return server.post("/v1/kinds/examples", [{"features": {}, "label": label} for label in labels]).status

        assert [send("a", "b"), send("c", "d"), send("c"), send("d"), send("a")] == [201, 422, 201, 422, 201]
        server.kill()
        server.start()
        assert [send("d"), send("b"), send("c")] == [422, 201, 201]
        refused = server.request("POST", "/v1/kinds/examples", arrow(x=[1.0], label=["e"]), ARROW)
        assert (refused.status, refused.json()["pointer"]) == (422, "/label")
        assert server.count("kinds") == 6


def test_the_service_file_says_how_many_ids_are_known(tmp_path: Path) -> None:
    spec = Spec(name="few", task="binary", features={"x": Feature(type="number")}, label=Label(ids_window=1000))

    def send(*ids: str) -> tuple[int, int]:
        answer = server.post("/v1/few/examples", [{"features": {"x": 1}, "label": 1, "id": name} for name in ids])
        return answer.json()["accepted"], answer.json()["duplicates"]

    with ServerProcess(tmp_path, spec) as server:
        assert send("first", *(f"a{n}" for n in range(998))) == (999, 0)
        assert send("first") == (0, 1)
        send(*(f"b{n}" for n in range(1000)))
        server.kill()
        server.start()
        assert send("first", "b0") == (0, 2)
        send(*(f"c{n}" for n in range(1000)))
        assert send("b999", "c0", "first") == (1, 2)


def test_ids_are_known_after_a_restart(tmp_path: Path) -> None:
    body = {"features": {"x": 1}, "label": 1, "id": "only"}
    with ServerProcess(tmp_path, TWO) as server:
        assert server.post("/v1/two/examples", body).json()["accepted"] == 1
        server.kill()
        server.start()
        assert server.post("/v1/two/examples", body).json() == {"accepted": 0, "duplicates": 1, "position": {"0": 1}}
        assert server.count("two") == 1


def test_concurrent_singles_are_all_kept_in_few_frames(server: ServerProcess) -> None:
    frames_before, before = len(server.logged("two")), server.count("two")

    def send(number: int) -> int:
        answer = server.post("/v1/two/examples", {"features": {"x": number}, "label": number % 2})
        assert answer.status == 201
        return int(answer.json()["position"]["0"])

    with ThreadPoolExecutor(32) as pool:
        positions = list(pool.map(send, range(1000)))
    assert len(set(positions)) == 1000
    assert server.count("two") == before + 1000
    numbers = [x for batch in server.logged("two") for x in batch.numbers[:, 0].tolist()][before:]
    assert sorted(numbers) == list(range(1000))
    assert len(server.logged("two")) - frames_before < 1000
