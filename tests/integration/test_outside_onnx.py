"""Networks in ONNX files as members of the mixture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save_model

from penstock.errors import SpecInvalid
from penstock.events import Batch, Kind, Version
from penstock.learn.fast.model import FastModel
from penstock.learn.fast.predictor import BlockPredictor
from penstock.learn.outside.left_out import left_out_of
from penstock.learn.outside.registry import OutsideMembers, check_members
from penstock.spec import Feature, Learn, Spec, Task


def _save(path: Path, nodes: tuple[str, ...], outputs: int) -> None:
    """These operators one after the other, on (n, 2)."""
    path.parent.mkdir(exist_ok=True)
    ends = [f"v{number}" for number in range(len(nodes) + 1)]
    made = [
        helper.make_node(kind, [start, *(["w"] if kind == "MatMul" else [])], [end])
        for kind, start, end in zip(nodes, ends[:-1], ends[1:], strict=True)
    ]
    graph = helper.make_graph(
        made,
        "network",
        [helper.make_tensor_value_info("v0", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info(ends[-1], TensorProto.FLOAT, [None, outputs])],
        [numpy_helper.from_array(np.ones((2, outputs), np.float32), "w")],
    )
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def _spec(task: Task, *members: str) -> Spec:
    learn = Learn(members=members, tree_window=0, random_features=0, half_lives=(64.0,))
    return Spec(name="s", task=task, features={"a": Feature(type="number"), "b": Feature(type="number")}, learn=learn)


def _events(n: int) -> Batch:
    """A number next to ``a``, which becomes the anchor, by a rule that no line follows."""
    generator = np.random.default_rng(0)
    numbers = np.column_stack((generator.uniform(0, 40, n), generator.uniform(-4, 4, n)))
    labels = np.abs(numbers[:, 0] + numbers[:, 1] - 20.0)
    return Batch(
        kind=Kind.EXAMPLE, times=np.arange(n, dtype=float), ids=None, sources=None, numbers=numbers, vectors=(),
        strings=(), labels=numbers.sum(axis=1) + np.sin(labels), versions=None,
    )  # fmt: skip


def test_a_network_of_numbers_answers_in_the_labels_unit_in_learner_and_server_alike(tmp_path: Path) -> None:
    _save(tmp_path / "members" / "0.onnx", ("MatMul",), 1)
    spec, events = _spec("regression", "sum.onnx"), _events(400)
    outside = OutsideMembers(spec, tmp_path)
    model = FastModel(spec, outside=outside)
    for at in range(0, 380, 20):
        model.learn(events.rows(slice(at, at + 20)))
    asked = events.rows(slice(380, 400))
    block = model.freeze(Version(1), {})
    assert not left_out_of(block.arrays)
    served = BlockPredictor(block, spec, outside=OutsideMembers(spec, tmp_path)).predict(asked)
    learned = model.learn(asked).predictions
    assert served.mean is not None
    assert learned.mean is not None
    assert np.array_equal(served.mean, learned.mean)
    # What it says itself, counted from the anchor, which is `a`.
    (members,) = outside.answering((model._encoder, model._anchor))
    assert model._anchor.mark == 1
    assert np.allclose(members.answer(asked, None)[:, 0] + asked.numbers[:, 0], asked.numbers.sum(axis=1), atol=1e-5)


@pytest.mark.parametrize(
    ("task", "nodes", "outputs", "said"),
    [
        ("binary", ("MatMul",), 3, "cannot answer an event of 2 numbers: answers with 3 numbers that are no prob"),
        ("regression", ("MatMul",), 2, "answers an event with 2 numbers instead of one"),
        ("multiclass", ("MatMul", "Softmax"), 2, "label.classes, which names none"),
    ],
)
def test_a_network_that_does_not_suit_the_task_is_refused(
    tmp_path: Path, task: Task, nodes: tuple[str, ...], outputs: int, said: str
) -> None:
    _save(tmp_path / "models" / "n.onnx", nodes, outputs)
    with pytest.raises(SpecInvalid, match=said):
        check_members({tmp_path / "s.yaml": _spec(task, "models/n.onnx")})
