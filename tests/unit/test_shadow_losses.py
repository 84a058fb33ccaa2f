"""What is in shadow is measured as what is served is, whatever is asked."""

from __future__ import annotations

import numpy as np
import pytest

from penstock.events import Batch, Kind
from penstock.learn.fast.model import FastModel
from penstock.learn.learner import Taken
from penstock.publish.candidates.shadow import Shadows
from penstock.spec import Feature, Learn, Spec, Task

LABELS = {
    "binary": lambda x: [str(int(v > 0)) for v in x],
    "multilabel": lambda x: [("a",) if v > 0 else ("a", "b") for v in x],
    "regression": lambda x: 100.0 * x,
    "counts": lambda x: np.floor(np.abs(20.0 * x)),
}


@pytest.mark.parametrize("task", LABELS)
def test_a_shadow_that_is_the_same_model_loses_the_same(task: Task) -> None:
    spec = Spec(
        name="s", task=task, features={"x": Feature(type="number")}, learn=Learn(random_features=0, tree_window=0)
    )
    served, other, shadows = FastModel(spec), FastModel(spec), Shadows(None)
    shadows._model = other
    rng = np.random.default_rng(1)
    for _ in range(4):
        numbers = rng.normal(size=(16, 1))
        batch = Batch(
            kind=Kind.EXAMPLE,
            times=np.zeros(16),
            ids=None,
            sources=None,
            numbers=numbers,
            vectors=(),
            strings=(),
            labels=LABELS[task](numbers[:, 0]),
            versions=None,
        )
        learned = served.learn(batch)
        found = shadows.learn(Taken(ranges=(), events=16, log_time=0.0, batch=batch, learned=learned))
        assert found is not None
        assert found.values == pytest.approx(learned.losses)
