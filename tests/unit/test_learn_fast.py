"""The model of the fast tier, whole: what it answers, what it keeps, and what cannot break it."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from penstock.cli.demonstration.streams import shifted
from penstock.errors import BadEvent, BlockDamaged, CheckpointDamaged
from penstock.events import Batch, Kind, Offset, Partition, Version
from penstock.learn.block import digest, pack, unpack
from penstock.learn.fast.layout import BASES
from penstock.learn.fast.model import FastModel
from penstock.learn.fast.predictor import BlockPredictor
from penstock.learn.interface import State
from penstock.spec import NUMBER_TASKS, ClassName, Feature, Label, Learn, Serve, Spec, Task

Labels = list[ClassName] | NDArray[np.float64]
TASKS: tuple[Task, ...] = ("binary", "multiclass", "regression", "counts")


def _spec(task: Task, numbers: int = 3, *, label: Label | None = None, **learn: Any) -> Spec:
    learn = {"random_features": 16, "half_lives": (16.0, float("inf"))} | learn
    features = {f"f{i}": Feature(type="number") for i in range(numbers)}
    serve = Serve(quantiles=(0.1, 0.5, 0.9) if task in NUMBER_TASKS else ())
    return Spec(name="s", task=task, features=features, label=label or Label(), learn=Learn(**learn), serve=serve)


def _batch(numbers: object, labels: Labels | None) -> Batch:
    columns = np.asarray(numbers, dtype=np.float64)
    return Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(len(columns)),
        ids=None,
        sources=None,
        numbers=columns,
        vectors=(),
        strings=(),
        labels=labels,
        versions=None,
    )


def _names(classes: object) -> list[ClassName]:
    return [ClassName(str(c)) for c in np.asarray(classes).tolist()]


def _events(task: Task, n: int, seed: int = 0, missing: float = 0.1) -> Batch:
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(n, 3))
    score = numbers @ [1.0, -2.0, 0.5] + 0.3 * rng.normal(size=n)
    numbers[rng.random(numbers.shape) < missing] = np.nan
    if task == "regression":
        return _batch(numbers, 10.0 + 3.0 * score)
    if task == "counts":
        return _batch(numbers, np.floor(4.0 * np.exp(0.5 * score)))
    return _batch(numbers, _names((score > 0).astype(int) if task == "binary" else np.digitize(score, [-1.0, 1.0])))


def _steps(batch: Batch, sizes: list[int]) -> list[Batch]:
    edges = np.cumsum([0, *sizes])
    return [batch.rows(slice(int(a), int(b))) for a, b in pairwise(edges)]


def _contents(state: State) -> tuple[Any, dict[str, tuple[str, tuple[int, ...], bytes]]]:
    return state.values, {k: (a.dtype.str, a.shape, a.tobytes()) for k, a in state.arrays.items()}


@pytest.mark.parametrize("task", TASKS)
@settings(max_examples=15)
@given(
    sizes=st.lists(st.sampled_from([1, 2, 7, 30, 33, 100]), min_size=1, max_size=8),
    cut=st.integers(0, 8),
    seed=st.integers(0, 99),
)
def test_a_loaded_model_learns_on_to_the_same_bytes(task: Task, sizes: list[int], cut: int, seed: int) -> None:
    steps = _steps(_events(task, sum(sizes), seed), sizes)
    model = FastModel(_spec(task))
    for step in steps[:cut]:
        model.learn(step)
    other = FastModel(_spec(task))
    other.load(model.save())
    for step in steps[cut:]:
        one, same = model.learn(step), other.learn(step)
        assert one.losses.tobytes() == same.losses.tobytes()
    assert _contents(model.save()) == _contents(other.save())
    version, position = Version(1), {Partition(0): Offset(1)}
    assert digest(model.freeze(version, position)) == digest(other.freeze(version, position))


@pytest.mark.parametrize("task", TASKS)
def test_a_block_answers_what_the_model_answers_and_later_learning_does_not_touch_it(task: Task) -> None:
    spec = _spec(task)
    model = FastModel(spec)
    steps = _steps(_events(task, 300), [100, 50, 1, 1, 1, 47, 100])
    for step in steps[:-1]:
        model.learn(step)
    block = model.freeze(Version(2), {Partition(0): Offset(200)})
    travelled = BlockPredictor(unpack(b"".join(pack(block))), spec)
    before = digest(block)
    learned = model.learn(steps[-1])
    answers = travelled.predict(steps[-1])
    for field in ("probabilities", "mean", "spread", "low", "high", "quantiles"):
        theirs, ours = getattr(answers, field), getattr(learned.predictions, field)
        assert (theirs is None) == (ours is None)
        assert theirs is None or np.array_equal(theirs, ours)
    assert np.array_equal(travelled.losses(answers, steps[-1], learned.scale), learned.losses)
    assert digest(block) == before
    single = travelled.predict(steps[-1].rows(slice(3, 4)))
    whole, part = (answers.mean, single.mean) if task in NUMBER_TASKS else (answers.probabilities, single.probabilities)
    assert whole is not None
    assert part is not None
    assert part[0] == pytest.approx(whole[3], abs=1e-5)


WILD = st.sampled_from([0.0, 1.0, -1.0, 1e300, -1e300, 1e-300, 5.0, float("nan")])


@pytest.mark.parametrize("task", TASKS)
@settings(max_examples=25)
@given(data=st.data())
def test_nothing_wild_makes_an_answer_that_is_no_number(task: Task, data: st.DataObject) -> None:
    spec = _spec(task, label=Label(classes_max=9))
    model = FastModel(spec)
    for _ in range(data.draw(st.integers(1, 8))):
        n = data.draw(st.sampled_from([1, 2, 9, 40]))
        numbers = np.array(data.draw(st.lists(st.tuples(WILD, WILD, WILD), min_size=n, max_size=n)))
        labels: Labels
        if task == "regression":
            wild = st.sampled_from([0.0, 1.0, 1e300, -1e300, 1e-300, 7.0])
            labels = np.array(data.draw(st.lists(wild, min_size=n, max_size=n)))
        elif task == "counts":
            many = st.sampled_from([0.0, 1.0, 2.0, 7.0, 300.0, 2.0**53])
            labels = np.array(data.draw(st.lists(many, min_size=n, max_size=n)))
        else:
            most = 1 if task == "binary" else 8
            labels = _names(data.draw(st.lists(st.integers(0, most), min_size=n, max_size=n)))
        batch = _batch(numbers, labels)
        learned = model.learn(batch)
        assert learned.finite
        assert np.isfinite(learned.jump)
        assert ((learned.losses >= 0) & (learned.losses <= 1)).all()
        answers = BlockPredictor(model.freeze(Version(1), {}), spec).predict(batch)
        if answers.probabilities is not None:
            assert answers.probabilities.sum(axis=1) == pytest.approx(np.ones(n))
            assert (answers.probabilities >= 0).all()
        else:
            parts = (answers.mean, answers.spread, answers.low, answers.high, answers.quantiles)
            assert all(part is not None and np.isfinite(part).all() for part in parts)


@pytest.mark.parametrize("kind", ["constant", "collinear", "all missing"])
@pytest.mark.parametrize("step", [1, 50])
def test_features_without_news_leave_the_others_to_be_learned(
    kind: Literal["constant", "collinear", "all missing"], step: int
) -> None:
    rng = np.random.default_rng(1)
    numbers = rng.normal(size=(1500, 3))
    numbers[:, 1] = {"constant": np.full(1500, 1e9), "collinear": numbers[:, 0], "all missing": np.full(1500, np.nan)}[
        kind
    ]
    numbers[:, 2] = numbers[:, 1]
    labels = numbers[:, 0] > 0
    model = FastModel(_spec("binary"))
    hits = []
    for start in range(0, 1500, step):
        part = slice(start, start + step)
        probabilities = model.learn(_batch(numbers[part], _names(labels[part].astype(int)))).predictions.probabilities
        assert probabilities is not None
        hits += list((probabilities[:, 1] > 0.5) == labels[part])
    assert np.mean(hits[500:]) > 0.97


def test_one_class_alone_becomes_certain_and_the_other_can_still_arrive() -> None:
    model = FastModel(_spec("binary"))
    rng = np.random.default_rng(2)
    for _ in range(30):
        learned = model.learn(_batch(rng.normal(size=(20, 3)), _names([1] * 20)))
    assert learned.predictions.probabilities is not None
    assert learned.predictions.probabilities[:, 1].min() > 0.99
    for _ in range(30):
        learned = model.learn(_batch(rng.normal(size=(20, 3)), _names([0] * 20)))
    assert learned.predictions.probabilities is not None
    assert learned.predictions.probabilities[:, 0].mean() > 0.9


def test_classes_get_their_places_in_order_of_appearance_and_are_unknown_before() -> None:
    spec = _spec("multiclass", label=Label(classes=(ClassName("b"),), classes_max=3))
    model = FastModel(spec)
    early = BlockPredictor(model.freeze(Version(1), {}), spec)
    batch = _batch(np.eye(3), [ClassName("b"), ClassName("z"), ClassName("a")])
    learned = model.learn(batch)
    assert model.classes == ("b", "z", "a")
    assert learned.losses.tolist() == [0.0, 1.0, 1.0]
    assert early.losses(early.predict(batch), batch).tolist() == [0.0, 1.0, 1.0]
    again = model.learn(batch)
    assert again.predictions.probabilities is not None
    assert again.predictions.probabilities.shape == (3, 3)
    assert (again.losses < 1).all()


@pytest.mark.parametrize(("task", "label"), [("binary", Label()), ("multiclass", Label(classes_max=2))])
def test_a_class_that_cannot_be_taken_changes_nothing(task: Task, label: Label) -> None:
    model = FastModel(_spec(task, label=label))
    model.learn(_batch(np.eye(3)[:2], _names([0, 1])))
    before = _contents(model.save())
    with pytest.raises(BadEvent, match="'5'"):
        model.learn(_batch(np.eye(3)[:2], _names([1, 5])))
    assert _contents(model.save()) == before


def test_states_and_blocks_of_another_service_are_refused() -> None:
    state = FastModel(_spec("binary")).save()
    with pytest.raises(CheckpointDamaged):
        FastModel(_spec("binary", numbers=4)).load(state)
    block = FastModel(_spec("binary")).freeze(Version(1), {})
    with pytest.raises(BlockDamaged):
        BlockPredictor(block, _spec("binary", numbers=4))
    arrays = {name: array for name, array in block.arrays.items() if name != "mixture"}
    with pytest.raises(BlockDamaged, match="mixture"):
        BlockPredictor(replace(block, arrays=arrays), _spec("binary"))


def test_the_jump_is_the_largest_change_of_a_weight() -> None:
    model = FastModel(_spec("binary", half_lives=(16.0,)))
    for step in _steps(_events("binary", 400, missing=0.0), [200, 50, 1, 1, 148]):
        before = model.save().arrays["weights"]
        learned = model.learn(step)
        moved = np.abs(model.save().arrays["weights"] - before).max()
        assert learned.jump == pytest.approx(moved / max(1.0, np.abs(before).max()))
    assert learned.finite


@pytest.mark.parametrize("step", [1, 64])
def test_the_mixture_is_nearly_as_good_as_its_best_member_on_a_stream_that_drifts(step: int) -> None:
    rng = np.random.default_rng(3)
    n = 2048
    numbers = rng.normal(size=(n, 3))
    signs = np.where(np.arange(n) // 700 % 2 == 0, 1.0, -1.0)
    labels = (numbers[:, 0] * signs + 0.3 * rng.normal(size=n) > 0).astype(int)
    model = FastModel(_spec("binary", half_lives=(32.0, float("inf"))))
    mixed, members = 0.0, np.zeros(1)
    for start in range(0, n, step):
        part = slice(start, start + step)
        answer = _answer(model, _batch(numbers[part], None))
        every, true = np.arange(len(labels[part])), labels[part]
        mixed -= np.log(answer.mixed[every, true]).sum()
        members = members - np.log(np.maximum(answer.members[every, true], 1e-6)).sum(axis=0)
        model.learn(_batch(numbers[part], _names(true)))
    # A step that straddles a change is answered as a whole before any of it is known, which costs every mixture.
    assert mixed < (members.min() + np.log(len(members)) + 0.002 * n if step == 1 else 1.25 * members.min())


def _answer(model: FastModel, batch: Batch) -> Any:
    """What the model's members say, before they are mixed."""
    embedded = model._stable.embed(batch)
    return model._answer_classes(batch, embedded, model._features(batch, embedded))


def _digits(images: NDArray[np.float64], labels: NDArray[np.int64]) -> Batch:
    batch = _batch(np.zeros((len(labels), 0)), _names(labels))
    return replace(batch, vectors=(images.astype(np.float32),))


def test_digits_that_stopped_arriving_are_not_forgotten() -> None:
    digits = load_digits()
    images, labels = digits.data, digits.target
    held = np.arange(len(labels)) % 5 == 0
    spec = Spec(
        name="digits",
        task="multiclass",
        features={"image": Feature(type="vector", width=64)},
    )
    model = FastModel(spec)
    test = _digits(images[held], labels[held])

    def right_now() -> NDArray[np.bool_]:
        probabilities = BlockPredictor(model.freeze(Version(1), {}), spec).predict(test).probabilities
        assert probabilities is not None
        right: NDArray[np.bool_] = np.array(model.classes)[probabilities.argmax(axis=1)] == np.array(test.labels)
        return right

    random = np.random.default_rng(0)
    for phase in range(5):
        arriving = np.flatnonzero(~held & (labels // 2 == phase))
        for _ in range(3):
            moved = np.array([shifted(image, *random.uniform(-1, 1, 2)) for image in images[arriving]])
            for start in range(0, len(arriving), 32):
                part = slice(start, start + 32)
                model.learn(_digits(moved[part], labels[arriving][part]))
                if phase == 4:
                    # Nor for a while, as the newest digits are taken for older ones at first.
                    assert right_now()[labels[held] < 2].mean() >= 0.9
    right = right_now()
    assert right[labels[held] < 2].mean() >= 0.93
    assert right.mean() >= 0.87
    # The fast head has forgotten, so it is the mixture that remembers.
    fast = _answer(model, test).members[:, :, BASES].argmax(axis=1)
    assert (np.array(model.classes)[fast] == np.array(test.labels))[labels[held] < 2].mean() < 0.5


@pytest.mark.parametrize("step", [1, 32])
def test_intervals_cover_what_they_promise_also_after_the_noise_changes(step: int) -> None:
    rng = np.random.default_rng(4)
    n = 3000
    numbers = rng.normal(size=(n, 3))
    noise = np.where(np.arange(n) < 1500, 1.0, 4.0) * rng.standard_t(4, size=n)
    labels = 100.0 + 5.0 * numbers[:, 0] + noise
    model = FastModel(_spec("regression"))
    inside = []
    for start in range(0, n, step):
        part = slice(start, start + step)
        answers = model.learn(_batch(numbers[part], labels[part])).predictions
        assert answers.low is not None
        assert answers.high is not None
        inside += list((answers.low <= labels[part]) & (labels[part] <= answers.high))
    assert np.mean(inside[300:1500]) == pytest.approx(0.9, abs=0.04)
    assert np.mean(inside[1800:]) == pytest.approx(0.9, abs=0.04)


@pytest.mark.parametrize("step", [1, 16])
def test_a_series_is_predicted_better_than_by_its_last_value_despite_spikes(step: int) -> None:
    rng = np.random.default_rng(5)
    n = 1500
    change = np.zeros(n)
    for i in range(1, n):
        change[i] = 0.6 * change[i - 1] + 0.2 * rng.normal()
    series = 100.0 + np.cumsum(change - 0.02 * np.cumsum(change))
    series[rng.random(n) < 0.01] = 20.0
    numbers = np.column_stack([np.roll(series, 1), np.roll(series, 2), np.roll(series, 3)])
    model = FastModel(_spec("regression"))
    errors = []
    for start in range(3, n, step):
        part = slice(start, start + step)
        mean = model.learn(_batch(numbers[part], series[part])).predictions.mean
        errors += list(np.abs(mean - series[part]))
    last = np.abs(series[3:] - numbers[3:, 0])
    assert np.median(errors[200:]) < 0.9 * np.median(last[200:])
    assert np.mean(errors[200:]) < last[200:].mean()


def test_losses_of_a_regression_compare_at_one_scale() -> None:
    spec = _spec("regression")
    model = FastModel(spec)
    batch = _events("regression", 400)
    old = BlockPredictor(model.freeze(Version(1), {}), spec)
    model.learn(batch)
    new = BlockPredictor(model.freeze(Version(2), {}), spec)
    answers = new.predict(batch)
    assert np.array_equal(old.losses(answers, batch, 5.0), new.losses(answers, batch, 5.0))
    assert not np.array_equal(old.losses(answers, batch), new.losses(answers, batch))
