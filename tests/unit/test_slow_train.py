"""Training a base: what it learns, keeps, refuses, and that the same call gives the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from penstock.errors import TrainingFailed
from penstock.events import Batch, Kind
from penstock.learn.checkpoint import to_safetensors
from penstock.learn.interface import Base
from penstock.learn.slow.artifact import Artifact, unpacked
from penstock.learn.slow.base import MemoryBases, OnnxBase
from penstock.learn.slow.elastic import Elastic
from penstock.learn.slow.network import make, take_over
from penstock.learn.slow.rebuild import in_steps, rebuild
from penstock.learn.slow.reservoir import Reservoir
from penstock.learn.slow.train import Trained, Training, train_base
from penstock.spec import ClassName, Consolidate, Feature, Label, Spec, Task

SHORT = Training(steps_max=300, round_steps=50)
FEATURES = {"x": Feature(type="number"), "v": Feature(type="vector", width=3), "c": Feature(type="category", buckets=4)}


def spec(task: Task = "multiclass", **consolidate: Any) -> Spec:
    settings = Consolidate(**{"replay": 500, **consolidate})
    return Spec(name="s", task=task, features=FEATURES, label=Label(), consolidate=settings)


def events(n: int, seed: int, classes: tuple[int, ...] = (0, 1, 2), task: Task = "multiclass") -> Batch:
    """The class is the quadrant of two numbers and the category, which no linear model of them can tell."""
    rng = np.random.default_rng(seed)
    x, v = rng.normal(size=n), rng.normal(size=(n, 3)).astype(np.float32)
    category = rng.integers(0, 2, n)
    quadrant = (x * v[:, 0] > 0).astype(int) + category * (v[:, 1] > 0)
    keep = np.isin(quadrant, classes)
    numbers = np.where(rng.random(n) < 0.02, np.nan, x)[keep][:, None]
    labels: list[ClassName] | NDArray[np.float64] = [ClassName(str(q)) for q in quadrant[keep]]
    if task == "regression":
        labels = (100.0 + 25.0 * (x * v[:, 0]) + 0.1 * rng.normal(size=n))[keep]
    return Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(len(numbers)),
        ids=None,
        sources=None,
        numbers=numbers,
        vectors=(v[keep],),
        strings=([("a", "b")[c] for c in category[keep]],),
        labels=labels,
        versions=None,
    )


def reservoir_of(given: Spec, *batches: Batch) -> Reservoir:
    reservoir = Reservoir(given)
    for batch in batches:
        reservoir.add(batch)
    return reservoir


def accuracy(base: Base, batch: Batch) -> float:
    said = base.embed(batch).probabilities
    assert said is not None
    assert isinstance(batch.labels, list)
    return float(
        np.mean([base.classes[best] == label for best, label in zip(said.argmax(1), batch.labels, strict=True)])
    )


def trained_on(given: Spec, reservoir: Reservoir, **options: Any) -> Trained:
    trained = train_base(given, reservoir, **{"training": SHORT, **options})
    assert trained is not None
    return trained


@pytest.fixture(scope="module")
def first() -> tuple[Reservoir, Artifact]:
    """A base that knows two of three classes."""
    reservoir = reservoir_of(spec(), events(3000, 0, (0, 1)))
    artifact = trained_on(spec(), reservoir).artifact
    reservoir.trained(OnnxBase(artifact))
    return reservoir, artifact


def test_a_base_learns_what_no_linear_model_can_and_its_features_have_unit_size(
    first: tuple[Reservoir, Artifact],
) -> None:
    base, test = OnnxBase(first[1]), events(1000, 9, (0, 1))
    assert accuracy(base, test) > 0.93
    features = base.embed(test).features
    assert features.shape == (len(test), base.width)
    np.testing.assert_allclose(features.mean(axis=1), 0, atol=1e-5)
    assert 0.5 < features.std() < 1.5


def test_a_new_class_is_learned_and_the_old_ones_are_kept_with_the_logits_they_had(
    first: tuple[Reservoir, Artifact],
) -> None:
    reservoir = Reservoir(spec())
    reservoir.load(first[0].save())
    reservoir.add(events(4000, 1, (2,)))
    replay = reservoir.replay
    assert replay is not None
    is_new = np.array(replay.batch.labels) == "2"
    assert np.isnan(replay.logits[is_new]).all()
    assert np.isfinite(replay.logits[~is_new][:, :2]).any()
    second = trained_on(spec(), reservoir, champion=first[1], training=Training(steps_max=600))
    base = OnnxBase(second.artifact)
    assert second.artifact.manifest.parent == first[1].id
    assert base.classes == ("0", "1", "2")
    # Without replay the new class is not learned, or the old ones are gone; rounding alone moves either by 0.03.
    assert accuracy(base, events(4000, 9, (2,))) > 0.9
    assert accuracy(base, events(1500, 9, (0, 1))) > 0.75


def test_the_same_call_gives_the_same_bytes_and_a_stopped_one_goes_on_to_them(tmp_path: Path) -> None:
    given = spec(ewc=1.0)
    reservoir = reservoir_of(given, events(1200, 0))
    training = Training(steps_max=120, round_steps=30)
    whole = trained_on(given, reservoir, training=training)
    calls = iter(range(10**6))
    state = tmp_path / "training.pt"

    def train(stop_after: int) -> Trained | None:
        return train_base(given, reservoir, training=training, resume=state, stop=lambda: next(calls) >= stop_after)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("penstock.learn.slow.loop.WRITE_EVERY_S", 0.0)
        assert train(70) is None
        assert state.exists()
        steps_of_first = next(calls)
        again = train(10**6)
    assert again is not None
    assert again.artifact == whole.artifact
    assert again.report.losses == whole.report.losses
    assert next(calls) - steps_of_first < 120, "it began anew instead of going on"
    assert not state.exists()


def test_a_state_of_another_training_is_not_taken_up(tmp_path: Path) -> None:
    state = tmp_path / "training.pt"
    state.write_bytes(b"not a state")
    reservoir = reservoir_of(spec(), events(600, 0))
    training = Training(steps_max=40, round_steps=20)
    assert trained_on(spec(), reservoir, training=training, resume=state).report.steps == 40


def test_a_regression_is_learned_in_the_labels_unit() -> None:
    given = spec("regression")
    reservoir = reservoir_of(given, events(3000, 0, task="regression"))
    base = OnnxBase(trained_on(given, reservoir).artifact)
    test = events(500, 9, task="regression")
    mean = base.embed(test).mean
    assert mean is not None
    complete = ~np.isnan(test.numbers[:, 0])
    errors = np.abs(mean - np.asarray(test.labels))[complete]
    assert np.median(errors) < 0.25 * np.std(np.asarray(test.labels))
    reservoir.trained(base)
    replay = reservoir.replay
    assert replay is not None
    assert abs(np.median(replay.logits[:, 0]) - 100) < 10


class Exploding(torch.nn.Module):
    """A user's network that overflows."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(inputs, outputs)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        grown: torch.Tensor = torch.exp(100.0 * self.linear(inputs).abs() + 100.0)
        return grown


class Users(torch.nn.Module):
    """A user's network that returns features as well."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(inputs, 24)
        self.out = torch.nn.Linear(24, outputs)

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = 1000.0 * torch.nn.functional.gelu(self.hidden(inputs))
        return features, self.out(features / 1000.0)


def test_a_network_that_overflows_is_an_error_and_no_base() -> None:
    given = spec(base=f"{__name__}:Exploding")
    with pytest.raises(TrainingFailed, match="no number"):
        trained_on(given, reservoir_of(given, events(600, 0)))


def test_a_users_network_is_found_by_its_import_path_and_its_features_are_normalised() -> None:
    given = spec(base=f"{__name__}:Users")
    reservoir = reservoir_of(given, events(2000, 0))
    base = OnnxBase(trained_on(given, reservoir, training=Training(steps_max=600)).artifact)
    assert base.width == 24
    assert accuracy(base, events(500, 9)) > 0.7
    assert 0.5 < base.embed(events(500, 9)).features.std() < 1.5


@pytest.mark.parametrize("path", ["no_such_package:net", f"{__name__}:nothing_here", f"{__name__}:FEATURES"])
def test_a_network_that_cannot_be_made_is_said_by_its_path(path: str) -> None:
    given = spec(base=path)
    with pytest.raises(TrainingFailed, match=path.partition(":")[0].replace(".", r"\.")):
        trained_on(given, reservoir_of(given, events(300, 0)))


def test_one_class_alone_and_an_empty_past_are_refused() -> None:
    with pytest.raises(TrainingFailed, match="one class"):
        trained_on(spec(), reservoir_of(spec(), events(300, 0, (1,))))
    with pytest.raises(TrainingFailed, match="too few"):
        trained_on(spec(), Reservoir(spec()))


def test_time_ends_a_training_with_the_best_so_far() -> None:
    trained = trained_on(spec(), reservoir_of(spec(), events(600, 0)), max_s=0.0)
    assert trained.report.ended == "time"
    assert trained.report.steps == 1


def test_the_elastic_penalty_holds_weights_by_their_importance_and_is_never_too_stiff_for_the_rate() -> None:
    given = spec(ewc=5.0)
    reservoir = reservoir_of(given, events(1500, 0, (0, 1)))
    older = unpacked(trained_on(given, reservoir, training=Training(steps_max=200, ewc=5.0)).artifact.weights)
    information = {name: array for name, array in older.items() if name.startswith("fisher/")}
    assert len(information) * 2 == len(older)
    assert all((array >= 0).all() for array in information.values())
    total = sum(float(array.sum()) for array in information.values())
    assert total == pytest.approx(sum(array.size for array in information.values()), rel=1e-3)
    tensors = {name: torch.from_numpy(array) for name, array in older.items()}
    # A class has arrived: its weights have no past.
    network = make("mlp", older["weight/first.weight"].shape[1], 3, seed=1)
    take_over(network, {n.removeprefix("weight/"): t for n, t in tensors.items() if n.startswith("weight/")})
    elastic = Elastic.of(network, tensors, weight=1e9, rate=1e-3, device="cpu")
    largest = max(float(array.max()) for array in information.values())
    assert elastic.strength * 1e-3 * largest < 1.0
    assert float(elastic.penalty(network).detach()) == 0.0

    def penalty_of_moving(row: int) -> float:
        with torch.no_grad():
            network.get_parameter("last.weight")[row] += 0.1
        found = float(elastic.penalty(network).detach())
        with torch.no_grad():
            network.get_parameter("last.weight")[row] -= 0.1
        return found

    assert penalty_of_moving(0) > 1e-4
    assert penalty_of_moving(2) == pytest.approx(0.0, abs=1e-9)
    assert float(Elastic.of(network, tensors, weight=0.0, rate=1e-3, device="cpu").penalty(network).detach()) == 0.0


def test_rebuilt_heads_are_the_same_however_the_past_is_cut_and_have_learned_it(
    first: tuple[Reservoir, Artifact],
) -> None:
    bases = MemoryBases()
    base = bases.put(first[1])
    past = events(2600, 4, (0, 1))
    whole = rebuild(spec(), base.id, bases, [past])
    cut = rebuild(spec(), base.id, bases, [past.rows(slice(at, at + 300)) for at in range(0, len(past), 300)])
    assert whole is not None
    assert cut is not None
    assert to_safetensors(whole.save().arrays) == to_safetensors(cut.save().arrays)
    assert whole.learn(events(600, 9, (0, 1))).losses.mean() < 0.06
    assert [len(step) for step in in_steps([past])] == [1024] * (len(past) // 1024) + [len(past) % 1024]
    assert rebuild(spec(), base.id, bases, [past], stop=lambda: True) is None
