"""An erasure while a new base answers a share of the traffic: what is left is what a service that never saw the subject
would have, the share and all that is known of it included, or nothing of the base where it may have known of it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from asked_house import House
from never_saw import never_saw
from onnx import TensorProto, helper, numpy_helper

from penstock.control.erase import ErasureReceipt, erase
from penstock.control.record import record
from penstock.learn.checkpoint import Checkpoint
from penstock.learn.journal import read_steps
from penstock.learn.slow.artifact import Artifact, BaseManifest, sealed
from penstock.learn.steps import CanaryCounts
from penstock.publish.assembly import replay_of
from penstock.publish.past.erasing import Whose
from penstock.publish.past.rebuild import STARTS_ANEW
from penstock.publish.weights.live import SharedLiveReader
from penstock.service import run_verification
from penstock.spec import ClassName, Feature, Gate, Learn, Spec

NAME = "tried"
FEATURES = {name: Feature(type="number") for name in "ab"}
SPEC = Spec(
    name=NAME,
    task="binary",
    features=FEATURES,
    # Nothing but lines, which do not follow the labels, and checkpoints where a test asks for one.
    learn=Learn(random_features=0, tree_window=0, half_lives=(64.0, float("inf")), checkpoint_every_s=1e9),
    gate=Gate(good_after_events=64, canary=(0.5, 0.9)),
)


def product(sharpness: float) -> Artifact:
    """A base that knows what the labels follow: whether the product of both numbers is above 0."""

    def constant(name: str, values: Any) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(values, np.float32), name)

    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["inputs", "first"], ["a"]),
            helper.make_node("MatMul", ["inputs", "second"], ["b"]),
            helper.make_node("Mul", ["a", "b"], ["features"]),
            helper.make_node("MatMul", ["features", "sides"], ["outputs"]),
        ],
        "base",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["rows", 2])],
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 1]),
            helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["rows", 2]),
        ],
        [
            constant("first", [[1], [0]]),
            constant("second", [[0], [1]]),
            constant("sides", [[-sharpness, sharpness]]),
        ],
    )
    manifest = BaseManifest(
        kind="mlp",
        inputs="raw",
        task="binary",
        features=FEATURES,
        classes=(ClassName("0"), ClassName("1")),
        width=1,
        opset=18,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return sealed(manifest, made.SerializeToString(), encoder={}, weights={})


def learned(data: Path) -> None:
    """A service whose new base answers a half; it has always known one subject, and another since the share began."""
    data.mkdir()
    record({Path("tried.yaml"): SPEC}, data)
    with House(data, 1, SPEC) as house:
        for _ in range(40):
            house.ask(("always", "a", "b", "c", "d"))
        house.publisher.checkpoint()
        house.adopt(1, product(4.0))
        house.until_share(0.5)
        house.say(answered=10)
        house.publisher.checkpoint()
        for _ in range(6):
            house.ask(("a", "later", "b", "later", "c", "d"))


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("tried")
    learned(home / "before")
    return home


@pytest.fixture
def home(stopped: Path, tmp_path: Path) -> Path:
    """``before``, and ``data``, which is the same."""
    for name in ("before", "data"):
        shutil.copytree(stopped / "before", tmp_path / name)
    return tmp_path


def erased(data: Path, subject: str) -> ErasureReceipt:
    return erase(data, NAME, Whose(subject=subject), lambda _: None)


def demand_rebuilt(data: Path, version: int) -> None:
    for from_start in (False, True):
        found = run_verification(NAME, data, version, from_start=from_start, progress=lambda *_: None)
        assert found.outcome == "equal", found


def state_of(data: Path) -> Checkpoint:
    with replay_of(SPEC, data / NAME) as replay:
        for _ in replay.run():
            pass
        return replay.state()


def test_the_share_goes_on_as_if_the_subject_had_never_come(home: Path) -> None:
    data, receipt = home / "data", erased(home / "data", "later")
    assert receipt.consolidations == []
    demand_rebuilt(data, receipt.version)
    never_saw(home, NAME, home / "never")
    ours, theirs, before = state_of(data), state_of(home / "never"), state_of(home / "before")
    assert ours.values["gate"]["shadow"]["canary"]["share"] == 0.5
    own = [state.values["gate"]["shadow"]["canary"]["not_worse"] for state in (ours, theirs, before)]
    assert own[0] == own[1] != own[2]
    assert ours.values["gate"] == theirs.values["gate"]
    for name in theirs.arrays:
        if name.startswith(("shadow/", "model/")):
            np.testing.assert_array_equal(ours.arrays[name], theirs.arrays[name], name)

    with House(data, 2, SPEC) as house:
        reader = SharedLiveReader(house.folder / "live")
        beside = reader.beside().block()
        assert beside is not None
        assert (reader.share(), beside.head.base) == (0.5, product(4.0).id)
        assert receipt.withdrawn is not None
        assert beside.head.version > receipt.withdrawn[1]
        # What servers had counted is still known: they do not begin anew.
        house.pass_time()
        assert not house.publisher.listen()
        house.say(answered=60)
        house.until_share(0.9)
        house.say(answered=120)
        house.until_share(0.0)
        assert (house.publisher.progress.slow.promoted > 0, reader.share()) == (True, 0.0)
        reader.close()
    demand_rebuilt(data, house.version)


def test_another_erasure_knows_which_numbers_it_answered_under_before_either(home: Path) -> None:
    data = home / "data"
    erased(data, "later")
    with House(data, 2, SPEC) as house:
        for _ in range(4):
            house.ask(("a", "last", "b", "last", "c", "d"))
    shutil.rmtree(home / "before")
    shutil.copytree(data, home / "before")
    receipt = erased(data, "last")
    assert (receipt.number, receipt.consolidations) == (2, [])
    demand_rebuilt(data, receipt.version)
    events = state_of(data).values["gate"]["shadow"]["canary"]["not_worse"]
    never_saw(home, NAME, home / "never")
    assert events == state_of(home / "never").values["gate"]["shadow"]["canary"]["not_worse"]


def test_a_base_that_may_have_known_of_the_subject_answers_nobody_any_more(home: Path) -> None:
    data, receipt = home / "data", erased(home / "data", "always")
    assert receipt.consolidations == [1]
    told = [step.shadow for step in read_steps(data / NAME / "steps") if step.shadow]
    assert [(one.what, one.reason) for one in told] == [("given_up", STARTS_ANEW)]
    demand_rebuilt(data, receipt.version)
    with House(data, 3, SPEC) as house:
        assert house.publisher.progress.slow.share == 0.0
        assert SharedLiveReader(house.folder / "live").share() == 0.0
        house.publisher.checkpoint()
        # Nothing is left of what was heard of the one before.
        house.adopt(2, product(3.0))
        house.until_share(0.5)
        assert house.publisher.progress.slow.share_counts == CanaryCounts()
        house.publisher.checkpoint()
        house.ask(("a", "b"))
    demand_rebuilt(data, house.version)
