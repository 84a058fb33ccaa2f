"""The lasting answer: what is kept of old events, and what they change in what is answered."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from penstock.events import Batch, Kind
from penstock.learn.fast.lasting import ASKED, EVERY, Lasting, LastingLearner
from penstock.learn.fast.layout import BASES, Layout
from penstock.learn.fast.model import FastModel
from penstock.learn.fast.past import KEPT_MAX, KEPT_MAX_BYTES, Past
from penstock.learn.interface import Embedded
from penstock.spec import ClassName, Feature, Learn, Spec

CLASSES = [ClassName("no"), ClassName("yes")]


def spec() -> Spec:
    return Spec(
        name="regimes",
        task="multiclass",
        features={f"x{i}": Feature(type="number") for i in range(6)},
        learn=Learn(random_features=32, half_lives=(16.0, 128.0, float("inf"))),
    )


def events(rng: np.random.Generator, count: int, apart: float, swapped: bool) -> Batch:
    """Two classes, told apart by one input or, where they lie elsewhere, by the next; or with their names swapped."""
    inputs = rng.standard_normal((count, 6))
    inputs[:, 0] += apart
    labels = (inputs[:, 2 if apart else 1] > 0) ^ swapped
    return Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(count),
        ids=None,
        sources=None,
        numbers=inputs,
        vectors=(),
        strings=(),
        labels=[CLASSES[int(label)] for label in labels],
        versions=None,
    )


@dataclass(frozen=True)
class Knows:
    """A base that was trained before anything changed."""

    id: str = "knows"
    width: int = 1
    classes: tuple[ClassName, ...] = tuple(CLASSES)
    configuration: None = None

    def embed(self, batch: Batch) -> Embedded:
        chance = 1.0 / (1.0 + np.exp(-4.0 * batch.numbers[:, 1]))
        return Embedded(features=chance[:, None], probabilities=np.stack((1.0 - chance, chance), axis=1))


def accuracy(model: FastModel, batch: Batch) -> float:
    embedded = model._stable.embed(batch)
    answer = model._answer_classes(batch, embedded, model._features(batch, embedded))
    return float((np.array(model.classes)[answer.mixed.argmax(axis=1)] == np.array(batch.labels)).mean())


def after_a_change(apart: float, count: int, heard: bool) -> tuple[FastModel, float]:
    """A model for which inputs came to lie so far away at last, or where they were, but with the names swapped; its
    accuracy meanwhile, the first 256 events left out."""
    rng, model = np.random.default_rng(1), FastModel(spec(), base=Knows())
    for _ in range(48):
        model.learn(events(rng, 64, 0.0, swapped=False))
    if heard:
        model.hear(events(np.random.default_rng(2), 400, 0.0, swapped=False))
    hits = []
    for _ in range(count // 16):
        batch = events(rng, 16, apart, swapped=not apart)
        hits.append(accuracy(model, batch))
        model.learn(batch)
    return model, float(np.mean(hits[16:]))


def test_what_was_heard_is_remembered_before_it_has_had_time_to_become_the_past() -> None:
    old = events(np.random.default_rng(3), 1000, 0.0, swapped=False)
    (alone, live_alone), (heard, live_heard) = (after_a_change(6.0, 448, heard) for heard in (False, True))
    assert accuracy(heard, old) > accuracy(alone, old) + 0.2
    assert live_heard > live_alone - 0.02


def test_what_is_no_longer_true_of_the_same_inputs_costs_little_though_it_was_heard() -> None:
    (_, live_alone), (heard, live_heard) = (after_a_change(0.0, 1536, heard) for heard in (False, True))
    assert live_alone > 0.85
    assert live_heard > live_alone - 0.02
    assert accuracy(heard, events(np.random.default_rng(3), 1000, 0.0, swapped=True)) > 0.85


def test_a_state_goes_on_asking_where_it_was() -> None:
    model, _ = after_a_change(4.0, 640, heard=True)
    other = FastModel(spec(), base=Knows())
    other.load(model.save())
    rng = np.random.default_rng(5)
    for _ in range(12):
        batch = events(rng, 50, 4.0, swapped=False)
        for one in (model, other):
            one.learn(batch)
    saved, again = ({name: array.tobytes() for name, array in m.save().arrays.items()} for m in (model, other))
    assert saved == again


@pytest.mark.parametrize("step", [1, 7, 256, 1000])
def test_as_many_old_events_are_asked_about_however_the_stream_is_cut(step: int) -> None:
    past = Past.of(events(np.random.default_rng(0), 300, 0.0, swapped=False))
    asked = counted = 0
    for at in range(0, 7000, step):
        times = past.due(min(step, 7000 - at))
        if times:
            taken, weight = past.take(times)
            asked += times * ASKED
            counted += len(taken) * weight
    assert asked == 7000 // EVERY * ASKED
    assert counted == pytest.approx(7000 // EVERY * EVERY, rel=0.2)


def test_what_is_kept_is_bounded_in_number_and_in_bytes() -> None:
    many = events(np.random.default_rng(0), 3000, 0.0, swapped=False)
    assert len(Past.of(many).events) == KEPT_MAX
    large = replace(many, strings=([("long text " * 2000) for _ in range(3000)],))
    past = Past.of(large)
    assert 100 < len(past.events) < KEPT_MAX
    assert len(past.packed) <= 1.01 * KEPT_MAX_BYTES
    nothing = Past.of(many.rows(slice(0, 0)))
    assert nothing.take(nothing.due(4096))[1] == 0


def test_powers_go_to_who_knows_the_old_and_the_new() -> None:
    layout = Layout.of(spec(), others=1, stable=1)
    lasting = Lasting(layout)
    learner = LastingLearner(lasting)
    rng = np.random.default_rng(6)
    base = BASES + layout.heads
    for old in [False, True] * 20:
        came = rng.integers(0, 2, 64)
        sure = np.where(np.arange(2) == came[:, None], 0.9, 0.1)
        flat = np.full((64, 2), 0.5)
        members = np.repeat(flat[:, :, None], layout.members, axis=2)
        # The live answer knows what is new, and the base what is old.
        members[:, :, base] = sure if old else flat
        if old:
            learner.remember(flat, members, came)
        else:
            learner.learn(sure, members, came)
    of = dict(zip(["live", *lasting.members.tolist()], lasting.powers[0].tolist(), strict=True))
    assert of["live"] > 0.8
    assert of[base] > 0.8
    assert lasting.weights[0] < 0.2, "it answers the new as well, and the premium decides"
