"""A server and blocks whose base it cannot open: what was served before goes on answering, and health says why."""

from __future__ import annotations

from pathlib import Path

import msgspec

from penstock.events import Version
from penstock.learn.fast.model import FastModel
from penstock.learn.interface import Block
from penstock.publish.interface import Progress
from penstock.spec import Feature, Spec
from penstock.testing.server import ServerProcess

SPEC = Spec(name="based", task="binary", features={"x": Feature(type="number")})
ASKED = {"features": {"x": 1.0}}
GONE = "c0ffee" + 58 * "0"


def expose_a_block_without_its_base(server: ServerProcess, version: int) -> None:
    block = FastModel(SPEC).freeze(Version(version), {})
    block = Block(msgspec.structs.replace(block.head, base=GONE), block.arrays)
    server._weights[SPEC.name].publish(block, Progress(version=Version(version)))


def test_the_version_before_answers_until_the_next_that_can(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, SPEC) as server:
        server.publish("based", 1)
        assert server.post("/v1/based/predict", ASKED).json()["version"] == 1
        expose_a_block_without_its_base(server, 2)
        assert server.post("/v1/based/predict", ASKED).json()["version"] == 1
        health = server.get("/v1/based")["health"]
        assert health["status"] == "degraded"
        assert health["worst"].startswith(f"base: The base {GONE} cannot be used: there is no folder ")
        assert server.request("GET", "/health/ready").status == 200
        server.publish("based", 3)
        assert server.post("/v1/based/predict", ASKED).json()["version"] == 3
        assert server.get("/v1/based")["health"]["status"] == "ok"


def test_a_server_that_never_had_another_version_says_so_and_is_not_ready(tmp_path: Path) -> None:
    with ServerProcess(tmp_path, SPEC) as server:
        server.publish("based", 1)
        expose_a_block_without_its_base(server, 2)
        server.kill()
        server.start()
        refused = server.post("/v1/based/predict", ASKED)
        assert refused.status == 503
        assert GONE in refused.json()["detail"] + refused.json()["title"]
        assert server.request("GET", "/health/ready").status == 503
        assert server.post("/v1/based/examples", {**ASKED, "label": 1}).status == 201
