"""OpenLineage events of a small service: in a file, at a real server, and where nobody answers."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from datetime import datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest

from penstock.events import Version
from penstock.facts import Consolidated, GivenUp
from penstock.learn.journal import read_steps
from penstock.publish.interface import Receipt
from penstock.publish.records.receipts import SqliteReceipts
from penstock.spec import Lineage, Spec
from penstock.testing.small_house import SPEC, build_publisher, filled_log

pytest.importorskip("openlineage.client")

from penstock.integrations.openlineage import OpenLineageWitness

SCRIPT = ("publish", "probation", "publish", "good", "hold", "hold", "publish", "publish", "roll_back", "publish")


class Run(msgspec.Struct, forbid_unknown_fields=True):
    """As the specification 2-0-2 has it: what is required, and nothing beside what is known."""

    runId: UUID  # noqa: N815
    facets: dict[str, dict[str, Any]] = {}


class Job(msgspec.Struct, forbid_unknown_fields=True):
    namespace: str
    name: str
    facets: dict[str, dict[str, Any]] = {}


class Dataset(msgspec.Struct, forbid_unknown_fields=True):
    namespace: str
    name: str
    facets: dict[str, dict[str, Any]] = {}
    inputFacets: dict[str, dict[str, Any]] = {}  # noqa: N815
    outputFacets: dict[str, dict[str, Any]] = {}  # noqa: N815


class RunEvent(msgspec.Struct, forbid_unknown_fields=True):
    eventTime: datetime  # noqa: N815
    producer: str
    schemaURL: str  # noqa: N815
    run: Run
    job: Job
    eventType: str  # noqa: N815
    inputs: list[Dataset] = []
    outputs: list[Dataset] = []

    def about(self) -> dict[str, Any]:
        return self.run.facets["penstock"]


def checked(content: bytes | str) -> RunEvent:
    """The event, if it is one."""
    event = msgspec.json.decode(content, type=RunEvent)
    assert event.schemaURL.endswith("/OpenLineage.json#/$defs/RunEvent")
    assert event.eventTime.tzinfo is not None
    assert event.eventType in ("START", "RUNNING", "COMPLETE", "ABORT", "FAIL", "OTHER")
    datasets = [*event.inputs, *event.outputs]
    facets = [event.run.facets, event.job.facets, *(kind for d in datasets for kind in (d.facets, d.inputFacets))]
    for facet in (facet for one in facets for facet in one.values()):
        assert facet["_producer"] == "urn:penstock" or facet["_producer"].startswith("https://")
        assert facet["_schemaURL"].startswith("https://openlineage.io/spec/")
    return event


def spec_for(target: str) -> Spec:
    return msgspec.structs.replace(SPEC, lineage=Lineage(openlineage=target, namespace="tests"))


def lived(folder: Path, witness: OpenLineageWitness) -> None:
    """A run with holds, rollbacks and checkpoints, of which the witness is told."""
    publisher = build_publisher(folder, filled_log(12), kept=1000, script=SCRIPT, witness=witness)
    publisher.start()
    while publisher.step() or publisher.has_backlog():
        pass
    publisher.checkpoint()
    publisher.close()


def test_a_file_has_spans_that_cover_every_update_and_each_release_by_itself(tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    witness = OpenLineageWitness(spec_for(f"file:{file}"))
    lived(tmp_path, witness)
    events = [checked(line) for line in file.read_text().splitlines()]
    assert witness.counts == {"sent": len(events), "failed": 0, "dropped": 0}
    receipts = SqliteReceipts(tmp_path / "versions.sqlite", SPEC.name, read_only=True)
    rows = list(reversed(receipts.newest(10_000)))
    receipts.close()
    covered = [v for event in events for v in range(event.about()["firstVersion"], event.about()["version"] + 1)]
    assert covered == [row.version for row in rows]
    assert len(events) < len(rows), "a fast update is no event"
    released = [event for event in events if event.job.name == "small.release"]
    assert [event.about()["cause"] for event in released] == [row.cause for row in rows if row.cause != "update"]
    assert {event.about()["restores"] for event in released if "restores" in event.about()} != set()

    taken: dict[int, int] = {0: 0, 1: 0}
    for event in events:
        for log in event.inputs:
            assert (log.namespace, log.name) == ("tests", "small.log")
            for span in log.inputFacets["penstock_offsets"]["ranges"]:
                assert span["from"] == taken[span["partition"]]
                taken[span["partition"]] = span["to"]
    sealed = {step.sealed for step in read_steps(tmp_path / "steps")} - {""}
    told = {event.about()["state"] for event in events if "state" in event.about()}
    assert len(told & sealed) >= 2
    assert len({event.run.runId for event in events}) == len(events)


def test_a_version_names_its_dataset_and_the_columns_that_predictions_come_from(tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    lived(tmp_path, OpenLineageWitness(spec_for(f"file:{file}")))
    last = checked(file.read_text().splitlines()[-1])
    model, predictions = last.outputs
    assert (model.name, model.facets["version"]["datasetVersion"]) == ("small.model", str(last.about()["version"]))
    fields = predictions.facets["columnLineage"]["fields"]["label"]["inputFields"]
    assert [(field["name"], field["field"]) for field in fields] == [("small.log", "x"), ("small.log", "y")]
    assert [field["name"] for field in last.inputs[0].facets["schema"]["fields"]] == ["x", "y", "label"]


def test_a_consolidation_and_what_was_given_up_are_runs(tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    witness = OpenLineageWitness(spec_for(f"file:{file}"))
    base = "ab" * 32
    made = Consolidated(
        at=5.0, service="small", number=3, base=base, cause="drift", trained=900, seconds=1.0, cpu_s=1.0
    )
    witness.published([], [made, GivenUp(at=6.0, service="small", number=3, base=base, events=7, reason="no gain")])
    witness.close()
    trained, refused = (checked(line) for line in file.read_text().splitlines())
    assert (trained.eventType, refused.eventType) == ("COMPLETE", "ABORT")
    assert trained.outputs[0].facets["version"]["datasetVersion"] == base
    assert (trained.about()["trained"], refused.about()["reason"]) == (900, "no gain")


class _Server(HTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.got: list[tuple[str, str, bytes]] = []
        self.status = 201
        self.hold = threading.Event()
        self.hold.set()


class _Answers(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        self.server.hold.wait(30.0)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.got.append((self.path, self.headers.get("Authorization", ""), body))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def server() -> Iterator[_Server]:
    server = _Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.hold.set()
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_is_sent_the_same_with_the_key(
    tmp_path: Path, server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENLINEAGE_API_KEY", "secret")
    witness = OpenLineageWitness(spec_for(f"http://127.0.0.1:{server.server_port}"), close_s=60.0)
    lived(tmp_path, witness)
    assert witness.counts["sent"] == len(server.got) > 5
    assert {(path, key) for path, key, _ in server.got} == {("/api/v1/lineage", "Bearer secret")}
    for _, _, body in server.got:
        checked(body)


def update(version: int) -> Receipt:
    return Receipt(
        version=Version(version),
        parent=Version(version - 1),
        cause="update",
        ranges=((0, version, version + 1),),  # type: ignore[arg-type]
        events=1,
        verdict="",
        time=float(version),
        cpu_s=0.0,
    )


def test_a_server_that_does_not_answer_holds_nobody_up_and_what_has_no_room_is_counted(server: _Server) -> None:
    server.hold.clear()
    witness = OpenLineageWitness(spec_for(f"http://127.0.0.1:{server.server_port}"), waiting_max=10, close_s=0.0)
    for version in range(1, 201):
        witness.published([update(version)], [])
        witness.checkpointed(Version(version), "ab")
    # Ten wait, and one is being sent.
    assert witness.counts["dropped"] >= 200 - 11
    witness.close()
    assert witness.counts["sent"] == 0


def test_a_server_that_refuses_is_counted_and_the_next_event_is_sent(server: _Server) -> None:
    server.status = 400
    witness = OpenLineageWitness(spec_for(f"http://127.0.0.1:{server.server_port}"), close_s=60.0)
    witness.published([update(1)], [])
    witness.checkpointed(Version(1), "")
    while witness.counts["failed"] == 0:
        time.sleep(0.01)
    server.status = 201
    witness.published([update(2)], [])
    witness.close()
    assert witness.counts == {"sent": 1, "failed": 1, "dropped": 0}
    assert json.loads(server.got[-1][2])["run"]["facets"]["penstock"]["version"] == 2
