"""The fast tier on a base: what it makes of its features, and that nothing is lost with or without it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from penstock.errors import BaseMissing
from penstock.events import Batch, Kind, Offset, Partition, Version
from penstock.learn.block import digest, pack, unpack
from penstock.learn.fast.model import FastModel
from penstock.learn.fast.predictor import BlockPredictor
from penstock.learn.interface import Base, Embedded
from penstock.spec import ClassName, Feature, Label, Learn, Spec, Task

POSITION = {Partition(0): Offset(1)}


@dataclass(frozen=True)
class Knows:
    """A base that knows the concept, a product of two inputs, and answers with a margin."""

    task: Task
    classes: tuple[ClassName, ...]
    id: str = "knows"
    width: int = 2
    configuration: None = None

    def embed(self, batch: Batch) -> Embedded:
        product = np.prod(batch.numbers[:, :2], axis=1)
        features = np.stack([np.tanh(3 * product), np.sign(product)], axis=1)
        if self.task == "regression":
            return Embedded(features=features, mean=10.0 + 5.0 * product)
        shares = np.full((len(batch), len(self.classes)), 0.1 / max(len(self.classes) - 1, 1))
        shares[np.arange(len(batch)), (product > 0).astype(int)] = 0.9
        return Embedded(features=features, probabilities=shares)


def _spec(task: Task) -> Spec:
    features = {name: Feature(type="number") for name in ("a", "b", "c")}
    classes = (ClassName("no"), ClassName("yes")) if task == "binary" else ()
    return Spec(name="s", task=task, features=features, label=Label(classes=classes), learn=Learn(random_features=8))


def _base(task: Task) -> Knows:
    return Knows(task, () if task == "regression" else (ClassName("no"), ClassName("yes")))


def _events(task: Task, n: int, seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(n, 3))
    product = np.prod(numbers[:, :2], axis=1)
    labels: list[ClassName] | NDArray[np.float64] = 10.0 + 5.0 * product
    if task != "regression":
        labels = [ClassName("yes" if p > 0 else "no") for p in product]
    nothing = {"ids": None, "sources": None, "vectors": (), "strings": (), "versions": None}
    return Batch(kind=Kind.EXAMPLE, times=np.zeros(n), numbers=numbers, labels=labels, **nothing)


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("step", [1, 5, 64])
def test_a_state_and_a_block_go_on_as_the_model_does_with_its_base(task: Task, step: int) -> None:
    spec, base = _spec(task), _base(task)

    def bases(base_id: str) -> Base:
        assert base_id == "knows"
        return base

    model, twin = FastModel(spec, base=base), FastModel(spec, bases)
    events = _events(task, 320)
    for start in range(0, 192, step):
        model.learn(events.rows(slice(start, min(start + step, 192))))
    twin.load(model.save())
    block = model.freeze(Version(3), POSITION)
    assert block.head.base == "knows"
    assert digest(block) == digest(twin.freeze(Version(3), POSITION))
    rest = events.rows(slice(192, 320))
    answered = BlockPredictor(unpack(b"".join(pack(block))), spec, bases).predict(rest)
    for one in (model, twin):
        learned = one.learn(rest)
        what = "mean" if task == "regression" else "probabilities"
        assert np.array_equal(getattr(learned.predictions, what), getattr(answered, what))
    assert digest(model.freeze(Version(4), POSITION)) == digest(twin.freeze(Version(4), POSITION))


@pytest.mark.parametrize("task", ["binary", "multiclass", "regression"])
def test_a_good_base_is_believed_soon(task: Task) -> None:
    losses = {}
    for base in (None, _base(task)):
        model, events = FastModel(_spec(task), base=base), _events(task, 256)
        losses[base is None] = np.concatenate([model.learn(events.rows(slice(i, i + 1))).losses for i in range(256)])
    assert losses[False][64:].mean() < 0.7 * losses[True][64:].mean()


def test_classes_that_the_base_does_not_know_are_learned_beside_it() -> None:
    model, events = FastModel(_spec("multiclass"), base=_base("multiclass")), _events("multiclass", 400)
    labels: list[ClassName] = list(events.labels)  # type: ignore[arg-type]
    third = events.numbers[:, 2] > 0.8
    for place in np.flatnonzero(third):
        labels[place] = ClassName("other")
    losses = []
    for start in range(0, 400, 8):
        part = events.rows(slice(start, start + 8))
        object.__setattr__(part, "labels", labels[start : start + 8])
        losses.append(model.learn(part).losses)
    assert model.classes == ("no", "yes", "other")
    assert np.concatenate(losses)[200:].mean() < 0.25


@pytest.mark.parametrize("bases", [None, "elsewhere"])
def test_a_state_whose_base_is_gone_is_refused(bases: str | None) -> None:
    def look(base_id: str) -> Base:
        raise BaseMissing(id=base_id, reason="it is not there")

    spec, base = _spec("binary"), _base("binary")
    model = FastModel(spec, base=base)
    finder = None if bases is None else look
    with pytest.raises(BaseMissing, match="knows"):
        FastModel(spec, finder).load(model.save())
    with pytest.raises(BaseMissing, match="knows"):
        BlockPredictor(model.freeze(Version(1), POSITION), spec, finder)


def test_a_state_from_before_the_base_is_gone_back_to() -> None:
    spec, base = _spec("binary"), _base("binary")
    without = FastModel(spec)
    without.learn(_events("binary", 64))
    model = FastModel(spec, base=base)
    model.learn(_events("binary", 64))
    model.load(without.save())
    assert digest(model.freeze(Version(1), POSITION)) == digest(without.freeze(Version(1), POSITION))
    assert model.freeze(Version(1), POSITION).head.base == ""
