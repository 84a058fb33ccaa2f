"""One event beyond all measure must not blind the figures for good."""

import numpy as np

from penstock.events import Batch, Kind
from penstock.learn.interface import Learned, Predictions
from penstock.learn.prequential import Prequential


def regression_step(mean: float, label: float) -> tuple[Learned, Batch]:
    one = np.array([mean])
    batch = Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(1),
        ids=None,
        sources=None,
        numbers=np.zeros((1, 0)),
        vectors=(),
        strings=(),
        labels=np.array([label]),
        versions=None,
    )
    predictions = Predictions(mean=one, spread=np.ones(1), low=one, high=one)
    return Learned(predictions=predictions, losses=np.ones(1), finite=True, jump=0.0), batch


def test_the_mean_error_stays_a_number_and_comes_back():
    measured = Prequential()
    measured.add(*regression_step(-1.7e308, 1.7e308), ())
    assert np.isfinite(measured.error.mean)
    for _ in range(2_000):
        measured.add(*regression_step(1.0, 1.7e308), ())
    assert np.isfinite(measured.error.mean)
    for _ in range(800_000 // 100):
        measured.error.add(np.zeros(100))
    assert measured.error.mean < 1e-30
