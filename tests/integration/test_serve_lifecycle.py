"""A server worker's life: health, metrics, clients that misbehave, full disks, signals."""

from __future__ import annotations

import contextlib
import itertools
import resource
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import urllib3

from penstock.events import Offset, Partition, Version
from penstock.facts import Held, Published, RolledBack
from penstock.learn.checkpoint import Checkpoint, Checkpoints
from penstock.publish.interface import Receipt
from penstock.publish.records.receipts import SqliteReceipts
from penstock.spec import Budget, Feature, Learn, Serve, Spec
from penstock.testing.server import ServerProcess

TWO = Spec(
    name="two",
    task="binary",
    features={"x": Feature(type="number"), "note": Feature(type="text"), "v": Feature(type="vector", width=2)},
    learn=Learn(random_features=4),
    serve=Serve(body_max_bytes=1_000_000),
)
BODY = msgspec.json.encode({"features": {"x": 1}, "label": 1})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    with ServerProcess(tmp_path_factory.mktemp("life"), TWO, body_timeout_s=0.4) as running:
        yield running


def connect(server: ServerProcess) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=10)


def head(length: int, path: str = "/v1/two/examples") -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: here", "Content-Type: application/json", f"Content-Length: {length}"]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def read_answer(connection: socket.socket) -> tuple[int, bytes]:
    """Status and everything after it, up to the end of the body."""
    got = b""
    while b"\r\n\r\n" not in got:
        part = connection.recv(65536)
        if not part:
            raise ConnectionError(f"closed after {got!r}")
        got += part
    before, _, body = got.partition(b"\r\n\r\n")
    length = int(before.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    while len(body) < length:
        body += connection.recv(65536)
    return int(before.split()[1]), before + body


def test_health_goes_from_starting_to_ok(server: ServerProcess) -> None:
    assert server.get("/health/live") == {"status": "ok"}
    waiting = server.request("GET", "/health/ready")
    assert waiting.status == 503
    assert waiting.json()["worst"].startswith("two: learner")
    assert server.get("/v1")["services"][0]["health"]["status"] == "starting"
    server.publish("two", 1)
    ready = server.request("GET", "/health/ready")
    assert (ready.status, ready.json()["status"]) == (200, "ok")
    server.publish("two", 2, holding=True)
    assert server.get("/v1/two")["health"]["worst"].startswith("gate:")
    assert server.request("GET", "/health/ready").status == 200
    server.publish("two", 3)


def test_the_status_frame_tells_the_learner_s_progress(server: ServerProcess) -> None:
    server.request("POST", "/v1/two/examples", BODY)
    server.publish("two", 4, position={0: Offset(0)}, examples_learned=5, duplicates=2, feedback_unknown=3, loss=0.25)
    status = server.get("/v1/two")
    ends = status["events"]["lag"]
    counted = {"accepted": 1, "learned": 7, "unmatched": 3, "set_aside": 0, "out_of_order": 0, "lag": ends}
    assert status["events"] == counted
    assert ends >= 1
    assert (status["model"]["version"], status["model"]["loss"], status["model"]["accuracy"]) == (4, 0.25, None)
    assert status["disk"]["log_bytes"] > 0


def test_versions_are_read_from_the_receipts(server: ServerProcess) -> None:
    assert server.get("/v1/two/versions") == {"versions": []}
    receipts = SqliteReceipts(server.data / "two" / "versions.sqlite", "two")
    for number in range(1, 6):
        receipt = Receipt(
            version=Version(number),
            parent=Version(number - 1),
            cause="update",
            ranges=((0, Offset(number), Offset(number + 1)),),  # type: ignore[arg-type]
            events=1,
            verdict="no evidence of harm",
            time=float(number),
            cpu_s=0.5,
        )
        receipts.write([receipt], [])
    receipts.flush()
    listed = server.get("/v1/two/versions?limit=2&before=5")["versions"]
    assert [receipt["version"] for receipt in listed] == [4, 3]
    assert server.get("/v1/two/versions/2")["ranges"] == [[0, 2, 3]]
    missing = server.request("GET", "/v1/two/versions/77")
    assert (missing.status, missing.json()["type"]) == (404, "urn:penstock:problem:unknown-version")
    for wrong in ("limit=0", "limit=x", "before=-1", "limit=99999"):
        assert server.request("GET", f"/v1/two/versions?{wrong}").status == 422
    assert server.request("GET", "/v1/two/versions/two").status == 404

    gone = {"restored": Version(2), "withdrawn": Version(5), "version": Version(6), "reason": "harm"}
    held = Held(at=2.0, service="two", version=Version(5), reason="not yet")
    published = Published(at=1.0, service="two", version=Version(5), parent=Version(4), events=1)
    receipts.write([], [published, held, RolledBack(at=3.0, service="two", **gone)])  # type: ignore[arg-type]
    receipts.flush()
    receipts.close()
    assert [fact["fact"] for fact in server.get("/v1/two/history")["history"]] == ["rolled_back", "held"]
    assert [fact["at"] for fact in server.get("/v1/two/history?kind=held&kind=published")["history"]] == [2.0, 1.0]
    assert len(server.get("/v1/two/history?limit=1")["history"]) == 1
    for wrong in ("limit=0", "kind=nothing", "kind=held&kind=nothing"):
        assert server.request("GET", f"/v1/two/history?{wrong}").status == 422
    assert server.get("/v1/two/versions/3")["withdrawn_by"] == 6
    assert server.get("/v1/two/versions/2")["withdrawn_by"] is None


def test_metrics_count_what_happened(server: ServerProcess) -> None:
    def read() -> dict[str, float]:
        text = server.request("GET", "/metrics").data.decode()
        return {n: float(v) for n, v in (line.rsplit(" ", 1) for line in text.splitlines() if line[:1] != "#")}

    before = read()
    server.request("POST", "/v1/two/examples", b"[" + BODY + b"," + BODY + b"]")
    server.request("POST", "/v1/two/examples", b"{")
    server.post("/v1/two/predict", {"features": {}})
    after = read()
    for name, more in {
        'penstock_events_accepted_total{kind="example",service="two"}': 2,
        'penstock_requests_refused_total{reason="malformed",service="two"}': 1,
        'penstock_predictions_total{service="two"}': 1,
        'penstock_predict_seconds_count{service="two"}': 1,
        'penstock_log_examples_total{service="two"}': 2,
    }.items():
        assert after[name] - before.get(name, 0) == more, name
    assert after['penstock_version{service="two"}'] == 4


def test_the_openapi_document_describes_the_services(server: ServerProcess) -> None:
    document = server.get("/openapi.json")
    assert document["openapi"].startswith("3.1")
    features = document["components"]["schemas"]["two.features"]
    assert features["properties"]["x"] == {"type": ["number", "null"]}
    assert features["properties"]["v"]["minItems"] == 2
    assert features["additionalProperties"] is False

    def references(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            if "$ref" in value:
                yield value["$ref"]
            yield from itertools.chain.from_iterable(map(references, value.values()))
        elif isinstance(value, list):
            yield from itertools.chain.from_iterable(map(references, value))

    for reference in references(document):
        assert reference.rpartition("/")[2] in document["components"]["schemas"]
    names = [operation["operationId"] for path in document["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names))
    for path, operations in document["paths"].items():
        for method in operations:
            answer = server.request(method.upper(), path.replace("{version}", "1"), b"" if method == "post" else None)
            assert answer.status not in (404, 405, 500), path


def test_a_client_that_leaves_in_the_middle_hurts_nobody(server: ServerProcess) -> None:
    before = server.count("two")
    for sent in (head(len(BODY)), head(len(BODY)) + BODY[:10], head(900_000) + b" " * 300_000):
        with connect(server) as connection:
            connection.sendall(sent)
    leavers = []
    for _ in range(20):
        connection = connect(server)
        connection.sendall(head(len(BODY)) + BODY)
        leavers.append(connection)
    for connection in leavers:
        # Gone before its answer: the event may be kept, and the others' commits must go on.
        connection.close()
    assert server.request("POST", "/v1/two/examples", BODY).status == 201
    assert server.post("/v1/two/predict", {"features": {}}).status == 200
    assert before + 1 <= server.count("two") <= before + 21


def test_a_body_that_never_arrives_is_given_up(server: ServerProcess) -> None:
    with connect(server) as connection:
        connection.sendall(head(len(BODY)) + BODY[:5])
        status, answer = read_answer(connection)
        assert status == 408
        assert b"urn:penstock:problem:too-slow" in answer
        assert connection.recv(10) == b""


def test_a_connection_serves_on_after_a_refusal(server: ServerProcess) -> None:
    with connect(server) as connection:
        for body, expected in ((b"{", 400), (BODY, 201), (b"[]", 422), (BODY, 201)):
            connection.sendall(head(len(body)) + body)
            assert read_answer(connection)[0] == expected
        connection.sendall(head(len(BODY)) + BODY + head(len(BODY)) + BODY)
        assert read_answer(connection)[0] == 201


def test_too_large_a_body_is_answered_even_while_it_is_being_sent(server: ServerProcess) -> None:
    with connect(server) as connection:
        connection.sendall(head(20_000_000) + b" " * 20_000_000)
        status, answer = read_answer(connection)
    assert status == 413
    assert b"1000000 bytes" in answer
    assert b"connection: close" in answer.lower()


def test_a_full_disk_is_a_503_and_room_made_is_used(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, TWO) as server:
        server.publish("two", 1)
        assert server.request("POST", "/v1/two/examples", BODY).status == 201
        hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)[1]
        # Metrics' memory-mapped files are larger than this already, and are not written to by calls.
        size = sum(file.stat().st_size for file in (server.data / "two" / "log").rglob("*.log"))
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (size + 200, hard))
        big = msgspec.json.encode({"features": {"note": "n" * 5000}, "label": 1, "id": "big"})
        refused = server.request("POST", "/v1/two/examples", big)
        assert refused.status == 503
        assert refused.headers["Retry-After"] == "1"
        assert refused.json()["type"] == "urn:penstock:problem:log-unavailable"
        assert server.get("/v1/two")["health"]["worst"].startswith("event log")
        assert server.request("GET", "/health/ready").status == 503
        assert server.post("/v1/two/predict", {"features": {}}).status == 200
        resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (hard, hard))
        again = server.request("POST", "/v1/two/examples", big)
        # Its id was not kept in mind by the failure: it is new, not a duplicate.
        assert (again.status, again.json()["accepted"]) == (201, 1)
        assert server.request("GET", "/health/ready").status == 200
        assert server.get("/v1/two")["events"]["accepted"] == 2


def test_the_log_gives_up_only_what_no_checkpoint_needs(tmp_path: Path) -> None:
    small = msgspec.structs.replace(
        TWO, learn=Learn(random_features=4, checkpoints_kept=2), budget=Budget(log_max_bytes=1024**2)
    )
    note = msgspec.json.encode({"features": {"note": "n" * 300_000}, "label": 1})

    def log_bytes() -> int:
        return int(server.get("/v1/two")["disk"]["log_bytes"])

    def checkpoint(step: int, needed: int) -> None:
        position = {Partition(0): Offset(needed)}
        checkpoints.write(Checkpoint(step=step, version=Version(1), position=position, needed=position, values={}))

    with ServerProcess(tmp_path, small, retain_every_s=0.05) as server:
        for _ in range(10):
            assert server.request("POST", "/v1/two/examples", note).status == 201
        checkpoints = Checkpoints(server.data / "two" / "checkpoints", kept=2)
        checkpoint(1, needed=9)
        time.sleep(0.3)
        assert log_bytes() > 3_000_000, "one checkpoint is not enough to rely on"
        checkpoint(2, needed=6)
        while log_bytes() > 2_000_000:
            time.sleep(0.05)
        time.sleep(0.2)
        assert [len(batch) for batch in server.logged("two")] == [1] * 4


def test_a_worker_replaced_under_load_fails_no_request(tmp_path: Path) -> None:
    failed: list[object] = []
    told: list[int] = []
    stop = threading.Event()

    def send(server: ServerProcess) -> None:
        # A client as they are: it keeps its connection, and opens another when it was told to close.
        pool = urllib3.HTTPConnectionPool(server.host, server.port, retries=False, timeout=20)
        while not stop.is_set():
            try:
                answer = pool.request(
                    "POST", "/v1/two/examples", body=BODY, headers={"Content-Type": "application/json"}
                )
            except urllib3.exceptions.HTTPError as error:
                failed.append(error)
                return
            (told if answer.status == 201 else failed).append(answer.status)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        with ServerProcess(tmp_path, TWO, fd=listener.fileno()) as server:
            clients = [threading.Thread(target=send, args=(server,)) for _ in range(8)]
            slow = connect(server)
            slow.sendall(head(len(BODY)) + BODY[:10])
            for client in clients:
                client.start()
            for _ in range(2):
                time.sleep(0.3)
                assert server.process is not None
                server.process.terminate()
                if slow.fileno() >= 0:
                    # In the middle of its body when the signal came.
                    slow.sendall(BODY[10:])
                    status, answer = read_answer(slow)
                    assert status == 201
                    assert b"connection: close" in answer.lower()
                    slow.close()
                assert server.process.wait(20) == 0
                server.start()
            stop.set()
            for client in clients:
                client.join()
            assert failed == []
            assert len(told) > 8
            assert server.count("two") == len(told) + 1


def test_an_inherited_socket_survives_the_worker(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.set_inheritable(True)
        with ServerProcess(tmp_path, TWO, fd=listener.fileno(), partition=3) as server:
            answer = server.request("POST", "/v1/two/examples", BODY)
            assert answer.json()["position"] == {"3": 1}
            assert server.stop() == 0
            # Nobody accepts now, but the connection waits in the socket's queue for the next worker.
            with connect(server) as waiting:
                waiting.sendall(head(len(BODY)) + BODY)
                server.start()
                assert read_answer(waiting)[0] == 201


def test_a_body_announced_as_far_too_large_is_refused_and_not_read_in_part(server: ServerProcess) -> None:
    before = server.count("two")
    event = b'{"features": {"x": 1}, "label": 1}\n'
    with connect(server) as connection:
        connection.sendall(head(10**9).replace(b"application/json", b"application/x-ndjson") + event)
        assert read_answer(connection)[0] == 413
    assert server.count("two") == before


@pytest.mark.parametrize("count", [1, 3])
def test_a_client_that_has_said_all_is_answered(server: ServerProcess, count: int) -> None:
    with connect(server) as connection:
        connection.sendall((head(len(BODY)) + BODY) * count)
        connection.shutdown(socket.SHUT_WR)
        got = b""
        while part := connection.recv(65536):
            got += part
    assert got.count(b"HTTP/1.1 201") == count


def test_headers_without_end_are_refused(server: ServerProcess) -> None:
    with connect(server) as connection:
        connection.sendall(b"GET /v1 HTTP/1.1\r\nHost: here\r\nX: ")
        with contextlib.suppress(OSError):
            for _ in range(100):
                connection.sendall(b"x" * 100_000)
        with contextlib.suppress(OSError):
            assert connection.recv(65536).startswith(b"HTTP/1.1 400")
    assert server.request("GET", "/health/live").status == 200
    assert server.request("GET", "/health/live", X_Long="x" * 8_000).status == 200
