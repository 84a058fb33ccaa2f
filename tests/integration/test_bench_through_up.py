"""`penstock bench learn --through-up`: the running system learns what the bench measures, to the last bit."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from penstock.cli.benchmarks.learn_streams import Stream, make
from penstock.cli.benchmarks.through_up import compared, plain, through
from penstock.learn.fast.model import FastModel
from penstock.learn.steps import Step
from penstock.spec import ClassName, Feature


def _turning(count: int) -> Stream:
    draws = np.random.default_rng(9)
    numbers = draws.normal(size=(count, 3)) * np.array([1.0, 1e3, 1e-3]) + np.array([0.0, 5.0, 1.0 / 3.0])
    angle = np.arange(count) * 2 * np.pi / count
    codes = numbers[:, 0] * np.cos(angle) + numbers[:, 1] / 1e3 * np.sin(angle) > 0
    features = {name: Feature(type="number") for name in "abc"}
    return make("turning", features, numbers, [ClassName("up" if code else "down") for code in codes])


def test_what_went_through_the_service_equals_the_same_steps_in_process(tmp_path: Path) -> None:
    stream = _turning(3_000)

    found = through(stream, tmp_path, lambda _: None, rate=3_000.0)

    assert found.events == 3_000
    assert found.largest_difference == 0.0
    assert found.equal_steps == found.steps >= 3
    assert found.service_accuracy == found.replayed_accuracy
    assert found.is_equal


def test_a_step_that_learned_something_else_is_seen() -> None:
    stream = _turning(64)
    spec = plain(stream.spec)
    model = FastModel(spec)
    steps = []
    for number, at in enumerate((0, 32), start=1):
        learned = model.learn(stream.events.rows(slice(at, at + 32)))
        ranges = ((0, at, at + 32),)
        steps.append(
            Step(number=number, action="publish", ranges=ranges, version=number, events=32, taken=32,
                 loss_sum=float(learned.losses.sum()))
        )  # fmt: skip
    said = compared(stream, spec, steps, 0.0).replayed_accuracy

    assert compared(stream, spec, steps, said).is_equal
    turned = [steps[0], msgspec.structs.replace(steps[1], loss_sum=steps[1].loss_sum + 1e-9)]
    off = compared(stream, spec, turned, said)
    assert off.equal_steps == 1
    assert 0 < off.largest_difference < 1e-8
    assert not off.is_equal
