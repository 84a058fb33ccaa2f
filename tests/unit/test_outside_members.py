"""Members from outside: what they read, how they travel, and that none of them can do harm."""

from __future__ import annotations

import hashlib
import os
import pickle
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from penstock.errors import SpecInvalid
from penstock.events import Batch, Kind, Version
from penstock.learn.block import pack, unpack
from penstock.learn.fast.model import FastModel
from penstock.learn.fast.predictor import BlockPredictor
from penstock.learn.interface import Block, State
from penstock.learn.outside import members as outside_members
from penstock.learn.outside.left_out import left_out_of
from penstock.learn.outside.members import rows_of
from penstock.learn.outside.pickles import Refused, packed, unpacked
from penstock.learn.outside.registry import OutsideMembers, build
from penstock.spec import ClassName, Feature, Learn, Spec, Task
from penstock.specfile.members import member
from penstock.specfile.reader import loads

TREE = "river.tree.HoeffdingAdaptiveTreeClassifier(grace_period=50)"
FOREST = "river.forest.ARFClassifier(n_models=2)"
BAYES = "sklearn.naive_bayes.GaussianNB()"
FEATURES = {
    "a": Feature(type="number"),
    "b": Feature(type="number"),
    "kind": Feature(type="category"),
    "new": Feature(type="boolean"),
}


def _spec(task: Task, *members: str, half_lives: tuple[float, ...] = (64.0,)) -> Spec:
    learn = Learn(members=members, tree_window=0, random_features=0, half_lives=half_lives)
    return Spec(name="s", task=task, features=FEATURES, learn=learn)


def _model(spec: Spec) -> FastModel:
    """As another process has it: nothing is shared with other models."""
    return FastModel(spec, outside=OutsideMembers(spec, Path("nowhere")))


def _events(n: int, task: Task, seed: int = 0) -> Batch:
    """A rule that no line can draw: whether a number is in the middle."""
    generator = np.random.default_rng(seed)
    numbers = np.column_stack((generator.uniform(-1, 1, (n, 2)), generator.random(n) < 0.5))
    inside = np.abs(numbers[:, 0]) < 0.5
    numbers[generator.random((n, 3)) < 0.02] = np.nan
    # Equal texts are one object here, and many where they come from the log: it must not matter.
    kinds = [("x", "y", "z")[kind] for kind in generator.integers(0, 3, n)]
    labels: Any = [ClassName(str(int(is_inside))) for is_inside in inside]
    if task == "multiclass":
        labels = [ClassName(f"{label}{kind == 'x'}") for label, kind in zip(labels, kinds, strict=True)]
    if task == "regression":
        labels = 40.0 + 10.0 * inside + generator.normal(0.0, 1.0, n)
    return Batch(
        kind=Kind.EXAMPLE, times=np.arange(n, dtype=float), ids=None, sources=None, numbers=numbers, vectors=(),
        strings=(kinds,), labels=labels, versions=None,
    )  # fmt: skip


def _steps(events: Batch, seed: int = 1) -> Iterator[Batch]:
    generator, at = random.Random(seed), 0
    while at < len(events):
        size = generator.choice((1, 7, 40, 100))
        yield events.rows(slice(at, at + size))
        at += size


def _losses(model: FastModel, events: Batch) -> np.ndarray[Any, Any]:
    return np.concatenate([model.learn(step).losses for step in _steps(events)])


def _bytes(state: State) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in state.arrays.items()} | {"values": repr(state.values).encode()}


def _block(model: FastModel) -> Block:
    return unpack(b"".join(pack(model.freeze(Version(1), {}))))


@pytest.mark.parametrize(
    ("task", "members"),
    [
        ("binary", (TREE, FOREST, BAYES)),
        ("multiclass", (FOREST, "sklearn.linear_model.Perceptron()")),
        ("regression", ("river.dummy.StatisticRegressor(river.stats.Mean())", "sklearn.linear_model.SGDRegressor()")),
    ],
)
def test_a_restart_and_a_server_say_the_same_to_the_byte(task: Task, members: tuple[str, ...]) -> None:
    spec = _spec(task, *members)
    model, twin, other = _model(spec), _model(spec), _model(spec)
    for number, step in enumerate(_steps(_events(480, task))):
        model.learn(step)
        other.learn(step)
        twin.learn(step)
        # Now just after models were packed, and now in the middle of what is learned between two packings.
        if number % 2:
            restarted = _model(spec)
            restarted.load(twin.save())
            twin = restarted
    assert _bytes(model.save()) == _bytes(twin.save()) == _bytes(other.save())
    block = _block(model)
    assert not left_out_of(block.arrays)
    assert all(f"outside.{place}" in block.arrays for place in range(len(members)))
    asked = _events(64, task, seed=9)
    served = BlockPredictor(block, spec, outside=OutsideMembers(spec, Path("nowhere"))).predict(asked)
    learned = model.learn(asked).predictions
    for name in ("probabilities", "mean", "spread"):
        if (answer := getattr(learned, name)) is not None:
            assert np.array_equal(answer, getattr(served, name))


def test_the_mixture_finds_the_member_that_knows_and_loses_little_by_one_that_does_not() -> None:
    events = _events(1500, "binary")
    alone = _losses(_model(_spec("binary")), events)[500:].mean()
    found = _losses(_model(_spec("binary", TREE)), events)[500:].mean()
    assert found < 0.5 * alone
    # Always certain of one class.
    wrong = _losses(_model(_spec("binary", "river.dummy.NoChangeClassifier()")), events)[500:].mean()
    assert wrong < alone + 0.01


def test_a_member_that_fails_is_left_out_with_the_reason_and_learning_goes_on() -> None:
    fails = "river.linear_model.LogisticRegression()"  # takes no texts
    refuses = "sklearn.naive_bayes.MultinomialNB()"  # takes nothing below zero
    spec = _spec("binary", fails, refuses, TREE)
    model = _model(spec)
    for step in _steps(_events(600, "binary")):
        assert np.isfinite(model.learn(step).losses).all()
    block = _block(model)
    told = left_out_of(block.arrays)
    assert told.keys() == {fails, refuses}
    assert told[fails].startswith("failed when learning: TypeError")
    assert "Negative values" in told[refuses]
    assert "outside.2" in block.arrays
    again = _model(spec)
    again.load(model.save())
    assert left_out_of(_block(again).arrays) == told


def test_a_member_that_grows_too_large_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside_members, "SIZE_MAX", 60_000)
    model = _model(_spec("binary", FOREST, BAYES))
    _losses(model, _events(400, "binary"))
    told = left_out_of(_block(model).arrays)
    assert told.keys() == {FOREST, BAYES} or told.keys() == {FOREST}
    assert "too large to travel" in told[FOREST]


def test_what_a_member_answers_must_be_numbers_of_the_right_shape() -> None:
    spec = _spec("binary", TREE, BAYES)
    outside = OutsideMembers(spec, Path("nowhere"))
    model = FastModel(spec, outside=outside)
    _losses(model, _events(300, "binary"))
    tree, bayes = outside._adapters
    tree.answer = lambda *_: np.full((40, 2), np.nan)  # type: ignore[method-assign]
    bayes.answer = lambda *_: np.ones((3, 3))  # type: ignore[method-assign]
    assert np.isfinite(model.learn(_events(40, "binary", seed=3)).losses).all()
    told = left_out_of(_block(model).arrays)
    assert "no finite number" in told[TREE]
    assert "(3, 3) answers to 40 events" in told[BAYES]


def test_seeds_are_set_where_none_is_given_and_kept_where_one_is() -> None:
    named = member("river.ensemble.BaggingClassifier(river.tree.HoeffdingTreeClassifier(), 2)")
    given = member("river.forest.ARFClassifier(seed=3)")
    assert build(named, 7).seed == 7
    assert build(given, 7).seed == 3
    assert build(member("sklearn.linear_model.SGDClassifier()"), 7).random_state == 7


def test_rows_hold_what_an_event_has_and_nothing_else() -> None:
    batch = _events(3, "binary")
    batch.numbers[0] = (1.5, np.nan, 1.0)
    batch.strings[0][0] = None
    assert rows_of(_spec("binary"), batch)[0] == {"a": 1.5, "new": True}
    # Pickles tell one text from two equal ones, and bytes must not depend on where events were read from.
    batch.strings[0][1:] = ["".join(letters) for letters in (["wh", "ite"], ["whi", "te"])]
    rows = rows_of(_spec("binary"), batch)
    assert rows[1]["kind"] is rows[2]["kind"]


class _Hostile:
    def __init__(self, *called: Any) -> None:
        self.called = called

    def __reduce__(self) -> Any:
        return self.called[0], self.called[1:]


def _named(module: str, name: str, argument: str) -> Any:
    """A pickle that calls what stands under this name."""
    content = f"c{module}\n{name}\n(V{argument}\ntR.".encode()
    return np.frombuffer(hashlib.sha256(content).digest() + content, np.uint8)


def test_pickles_that_name_what_acts_are_refused(tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    for hostile in (
        _Hostile(os.system, f"touch {sign}"),
        _Hostile(eval, f"open({str(sign)!r}, 'w')"),
        _Hostile(getattr, "text", "format"),
        _Hostile(np.save, str(sign), np.ones(3)),
        {"model": [_Hostile(open, str(sign), "w")]},
    ):
        with pytest.raises(Refused):
            unpacked(packed(hostile), ("river", "sklearn"))
    for module, name in (
        ("river.tree", "os.system"),
        ("river.datasets.base", "Dataset"),
        ("sklearn.utils._testing", "check_call"),
        ("sklearn.base", "clone"),
        ("numpy.testing", "rundocs"),
        ("numpy", "load"),
        ("builtins", "exec"),
        ("river.tree.base", "typing.sys.exit"),
        ("functools", "reduce"),
        ("subprocess", "Popen"),
    ):
        with pytest.raises((Refused, AttributeError)):
            unpacked(_named(module, name, f"touch {sign}"), ("river", "sklearn"))
    assert not sign.exists()


def test_damaged_and_foreign_models_are_refused() -> None:
    from sklearn.naive_bayes import GaussianNB

    content = packed(GaussianNB())
    assert isinstance(unpacked(content, ("sklearn",)), GaussianNB)
    with pytest.raises(Refused, match="names sklearn"):
        unpacked(content, ("river",))
    damaged = content.copy()
    damaged[-3] ^= 1
    with pytest.raises(Refused, match="digest"):
        unpacked(damaged, ("sklearn",))
    with pytest.raises(Refused, match="digest"):
        unpacked(np.frombuffer(pickle.dumps(1), np.uint8), ())


def test_a_server_does_without_a_model_that_it_refuses() -> None:
    spec = _spec("binary", BAYES)
    model = _model(spec)
    _losses(model, _events(200, "binary"))
    block = _block(model)
    bad = Block(block.head, dict(block.arrays) | {"outside.0": packed(_Hostile(os.system, "true"))})
    answered = BlockPredictor(bad, spec, outside=OutsideMembers(spec, Path("nowhere"))).predict(_events(5, "binary"))
    assert answered.probabilities is not None
    assert np.isfinite(answered.probabilities).all()


def test_faults_of_the_text_are_said_all_at_once_with_their_lines() -> None:
    text = (
        "name: s\ntask: binary\nfeatures: {x: number}\nlearn:\n  members:\n"
        "    - os.system('x')\n    - river.tree.HoeffdingTreeClassifier(grace_period=50)\n    - river.tree.X(**{})\n"
        "    - sklearn.naive_bayes.GaussianNB(1 + 1)\n    - models/fraud.onnx\n    - models/fraud.onnx\n"
    )
    with pytest.raises(SpecInvalid) as raised:
        loads(text)
    assert [(fault.line, fault.path) for fault in raised.value.faults] == [
        (6, "learn.members[0]"), (8, "learn.members[2]"), (9, "learn.members[3]"),
        (11, "learn.members[5]"),
    ]  # fmt: skip
    with pytest.raises(SpecInvalid, match="none for counts"):
        loads("name: s\ntask: counts\nfeatures: {x: number}\nlearn: {members: [river.tree.HoeffdingTreeRegressor]}\n")


def test_a_model_is_not_made_without_the_members_that_it_names() -> None:
    with pytest.raises(ValueError, match="names members"):
        FastModel(_spec("binary", TREE))
