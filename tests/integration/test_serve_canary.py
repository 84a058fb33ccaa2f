"""A server with two blocks: each request is answered by one of them, always the same for the same key, under its own
number; and what cannot answer hurts nobody."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from penstock.events import Kind, Partition, Version
from penstock.gate.share import is_within
from penstock.learn.fast.model import FastModel
from penstock.learn.interface import Block
from penstock.learn.steps import CanaryCounts
from penstock.publish.candidates.canary_counts import counts_of
from penstock.serve.decode import Decoder, Media
from penstock.spec import Apprentice, Feature, Gate, Learn, Spec
from penstock.testing.server import ServerProcess

SPEC = Spec(name="tried", task="binary", features={"x": Feature(type="number")}, learn=Learn(random_features=0))
GONE = "c0ffee" + 58 * "0"
NAMES = [f"customer {n}" for n in range(120)]
ASKED = {"instances": [{"features": {"x": 0.5}, "subject": name} for name in NAMES]}


def block_of(version: int, *, base: str = "", broken: bool = False) -> Block:
    block = FastModel(SPEC).freeze(Version(version), {})
    arrays = dict(block.arrays) | ({"weights": np.full_like(block.arrays["weights"], np.nan)} if broken else {})
    return Block(msgspec.structs.replace(block.head, base=base), arrays)


def versions(server: ServerProcess) -> dict[str, int]:
    """Which version answers each of them."""
    said = server.post("/v1/tried/predict", ASKED).json()["predictions"]
    return {name: answer["version"] for name, answer in zip(NAMES, said, strict=True)}


def test_a_share_of_the_keys_is_answered_by_the_other_block_and_by_nothing_that_cannot(tmp_path: Path) -> None:
    counts = tmp_path / "data" / "tried" / "canary"
    with ServerProcess(tmp_path, SPEC) as server:
        server.publish("tried", 4)
        live = server._weights["tried"]
        assert set(versions(server).values()) == {4}

        for share in (0.1, 0.5, 1.0):
            live.try_out(block_of(5), share)
            assert versions(server) == {name: 5 if is_within(name, "", share) else 4 for name in NAMES}
        live.try_out(block_of(5), 0.5)

        # One by one it is as many at a time, and the log says who answered.
        for name in NAMES[:8]:
            one = server.post("/v1/tried/predict", {"features": {"x": 0.5}, "subject": name, "id": f"of {name}"})
            assert one.json()["version"] == (5 if is_within(name, "", 0.5) else 4)
        assert server.post("/v1/tried/examples", {"features": {"x": 1}, "label": 1}).status == 201
        recorded = {
            (batch.subjects or [])[row]: int(batch.versions[row])
            for batch in server.logged("tried", Kind.PREDICTION)
            if batch.ids is not None and batch.versions is not None
            for row in range(len(batch))
            if (batch.ids[row] or "").startswith("of ")
        }
        assert recorded == {name: 5 if is_within(name, "", 0.5) else 4 for name in NAMES[:8]}

        # Who has no subject is known by the prediction's id.
        ids = [server.post("/v1/tried/predict", {"features": {"x": 1}}).json() for _ in range(24)]
        assert {(answer["id"], answer["version"]) for answer in ids} == {
            (answer["id"], 5 if is_within(answer["id"], "", 0.5) else 4) for answer in ids
        }

        live.try_out(block_of(7, broken=True), 0.5)
        assert set(versions(server).values()) == {4}
        assert counts_of(counts, Partition(0), "").not_finite > 0

        live.try_out(block_of(9, base=GONE), 1.0)
        assert set(versions(server).values()) == {4}
        told = counts_of(counts, Partition(0), GONE)
        assert (told.failed, told.answered) == (1, 0)
        assert GONE in told.failure
        assert server.get("/v1/tried")["health"]["status"] == "ok"

        live.try_out(None, 0.0)
        assert set(versions(server).values()) == {4}


def test_what_was_counted_goes_on_after_a_restart(tmp_path: Path) -> None:
    counts = tmp_path / "data" / "tried" / "canary"
    with ServerProcess(tmp_path, SPEC) as server:
        server.publish("tried", 4)
        live = server._weights["tried"]
        live.try_out(block_of(5), 0.5)
        own = sum(version == 5 for version in versions(server).values())
        server.stop()
        first = counts_of(counts, Partition(0), "")
        assert first == CanaryCounts(share=0.5, asked=120, answered=own, timed=1, slow=first.slow)
        server.start()
        versions(server)
        server.stop()
        assert counts_of(counts, Partition(0), "").asked == 240


def test_what_is_kept_of_answers_is_what_each_was_told_whoever_answered(tmp_path: Path) -> None:
    """Beside a system that was there before, which is compared with what callers got."""
    spec = msgspec.structs.replace(SPEC, gate=Gate(apprentice=Apprentice(of="rules")))
    taught = FastModel(spec)
    taught.learn(Decoder(spec).decode(Kind.EXAMPLE, b'{"features": {"x": 1}, "label": 1}\n' * 8, Media.NDJSON, 0.0))
    with ServerProcess(tmp_path, spec) as server:
        server.publish("tried", 4)
        server._weights["tried"].try_out(taught.freeze(Version(5), {}), 0.5)
        asked = {"instances": [{**one, "features": {"x": 0.1 * n}} for n, one in enumerate(ASKED["instances"])]}
        said = server.post("/v1/tried/predict", asked).json()["predictions"]
        assert {answer["apprentice_of"] for answer in said} == {"rules"}
        assert {answer["version"] for answer in said} == {4, 5}
        assert server.post("/v1/tried/examples", {"features": {"x": 1}, "label": 1}).status == 201
        (batch,) = server.logged("tried", Kind.PREDICTION)
        assert batch.replies is not None
        assert batch.replies.classes == ("0", "1")
        told = [list(answer["probabilities"].values()) for answer in said]
        assert batch.ids == [answer["id"] for answer in said]
        np.testing.assert_allclose(batch.replies.values, told, rtol=1e-6)
        assert len({tuple(row) for row in told}) > 1
