"""The slow tier where events have several classes: what is kept of them, what a base learns, and how two are judged."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import TrainingFailed
from penstock.events import Batch, Kind
from penstock.learn.checkpoint import to_safetensors
from penstock.learn.fast.model import FastModel
from penstock.learn.slow.base import MemoryBases, OnnxBase
from penstock.learn.slow.judge import judge
from penstock.learn.slow.rebuild import rebuild
from penstock.learn.slow.reservoir import Reservoir
from penstock.learn.slow.train import Trained, Training, train_base
from penstock.spec import ClassName, ClassSet, Consolidate, Feature, Label, Learn, Spec

SHORT = Training(steps_max=300, round_steps=50)
NAMES = tuple(ClassName(name) for name in ("even", "high", "rare"))


def spec(replay: int = 500, classes_max: int = 1000, ewc: float = 0.0) -> Spec:
    return Spec(
        name="s",
        task="multilabel",
        features={"x": Feature(type="number"), "y": Feature(type="number")},
        label=Label(classes_max=classes_max),
        learn=Learn(random_features=0),
        consolidate=Consolidate(replay=replay, ewc=ewc),
    )


def events(n: int, seed: int, without: str = "") -> Batch:
    """``even`` where the inputs have one sign, which no linear model can tell; ``high`` where both are; ``rare``."""
    numbers = np.random.default_rng(seed).normal(size=(n, 2))
    product = numbers[:, 0] * numbers[:, 1]
    is_there = (product > 0, numbers.sum(axis=1) > 0.5, product < -1.5)
    sets: list[ClassSet] = [
        tuple(name for name, there in zip(NAMES, row, strict=True) if there and name != without)
        for row in zip(*is_there, strict=True)
    ]
    return Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(n),
        ids=None,
        sources=None,
        numbers=numbers,
        vectors=(),
        strings=(),
        labels=sets,
        versions=None,
    )


def reservoir_of(given_spec: Spec, *batches: Batch) -> Reservoir:
    reservoir = Reservoir(given_spec)
    for batch in batches:
        reservoir.add(batch)
    return reservoir


def trained_on(given_spec: Spec, reservoir: Reservoir) -> Trained:
    trained = train_base(given_spec, reservoir, training=SHORT)
    assert trained is not None
    return trained


def mistakes(base: OnnxBase, batch: Batch) -> float:
    said = base.embed(batch).probabilities
    assert said is not None
    assert isinstance(batch.labels, list)
    came = np.array([[name in names for name in base.classes] for names in batch.labels])
    return float(((said > 0.5) != came).mean())


@pytest.fixture(scope="module")
def base() -> OnnxBase:
    return OnnxBase(trained_on(spec(), reservoir_of(spec(), events(3000, 0))).artifact)


def test_a_base_learns_each_class_by_itself(base: OnnxBase) -> None:
    test = events(1000, 9)
    assert set(base.classes) == set(NAMES)
    assert mistakes(base, test) < 0.06
    said = base.embed(test).probabilities
    assert said is not None
    # Two classes are likely together, or none is: probabilities of one class would sum to one.
    assert said.sum(axis=1).max() > 1.8
    assert said.sum(axis=1).min() < 0.2


def test_heads_on_the_base_answer_what_linear_heads_cannot(base: OnnxBase) -> None:
    bases = MemoryBases()
    bases.put(base.artifact)
    on_base = rebuild(spec(), base.id, bases, [events(1500, 1)])
    alone = rebuild(spec(), "", bases, [events(1500, 1)])
    assert on_base is not None
    assert alone is not None
    test = events(500, 3)
    assert on_base.learn(test).losses.mean() < 0.4 * alone.learn(test).losses.mean()


def test_a_training_keeps_what_an_earlier_base_said_and_weighs_what_it_depended_on() -> None:
    given_spec = spec(ewc=1.0)
    reservoir = reservoir_of(given_spec, events(1200, 0))
    first = trained_on(given_spec, reservoir)
    reservoir.trained(OnnxBase(first.artifact))
    reservoir.add(events(600, 1))
    assert reservoir.replay is not None
    assert np.isfinite(reservoir.replay.logits).any()
    again = train_base(given_spec, reservoir, champion=first.artifact, training=SHORT)
    assert again is not None
    assert again.artifact.manifest.parent == first.artifact.id
    assert mistakes(OnnxBase(again.artifact), events(800, 9)) < 0.12


def test_a_stream_of_one_set_has_nothing_to_train_on() -> None:
    whole = events(600, 0)
    one = whole.rows(np.array([place for place, names in enumerate(whole.labels or ()) if names == ("even",)]))
    with pytest.raises(TrainingFailed, match="of one class alone"):
        train_base(spec(), reservoir_of(spec(), one), training=SHORT)


@settings(max_examples=20)
@given(st.lists(st.integers(1, 2999), max_size=8), st.booleans())
def test_what_is_kept_does_not_depend_on_how_the_stream_is_cut(cuts: list[int], looks: bool) -> None:
    whole = events(3000, 5)
    once, pieces = reservoir_of(spec(60), whole), Reservoir(spec(60))
    for start, stop in pairwise(sorted({0, 3000, *cuts})):
        pieces.add(whole.rows(slice(start, stop)))
        if looks:
            saved = pieces.save()
            pieces = Reservoir(spec(60))
            pieces.load(saved)
    one, other = once.save(), pieces.save()
    assert msgspec.msgpack.encode(one.values) == msgspec.msgpack.encode(other.values)
    assert to_safetensors(one.arrays) == to_safetensors(other.arrays)


def test_replay_holds_as_much_of_the_rarest_class_as_of_others() -> None:
    whole = events(6000, 5)
    share = np.mean(["rare" in names for names in whole.labels or ()])
    replay = reservoir_of(spec(120), whole).replay
    assert replay is not None
    kept = np.mean(["rare" in names for names in replay.batch.labels or ()])
    assert share < 0.1
    assert kept > 0.2


def test_a_class_without_room_is_passed_over_with_its_event() -> None:
    reservoir = reservoir_of(spec(classes_max=2), events(300, 0))
    assert len(reservoir.classes) == 2
    assert reservoir.replay is not None
    assert all(set(names) <= set(reservoir.classes) for names in reservoir.replay.batch.labels or ())


def test_a_class_that_one_model_does_not_know_is_what_it_has_forgotten(base: OnnxBase) -> None:
    bases = MemoryBases()
    bases.put(base.artifact)
    models = [FastModel(spec(), bases, base if knows else None) for knows in (False, True)]
    for model in models:
        model.learn(events(600, 0))
    held_out = events(400, 2)
    better = judge(spec(), *models, held_out, bases)
    assert better.held_out.forgotten < 0.05
    assert better.held_out.gained > better.held_out.lost
    assert better.after["even"] > better.before["even"] + 0.2
    worse = judge(spec(), *reversed(models), held_out, bases).held_out
    assert worse.forgotten > 0.2
    assert worse.forgotten_class in ("even", "rare")
    assert (worse.gained, worse.lost) == (better.held_out.lost, better.held_out.gained)
