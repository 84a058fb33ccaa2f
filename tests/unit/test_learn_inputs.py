"""Inputs beside what a base was trained on: counts, distances, what luck does, and what comes back."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.cli.benchmarks.gate_inputs import DRIFT_MAX, daily, has_left, independent, lasting
from penstock.events import Batch, Kind, Schema
from penstock.learn.inputs import Departed, Seen, departed, distance, seen_of
from penstock.learn.watched import LOOK_EVENTS, Inputs
from penstock.spec import Feature, Spec

SPEC = Spec(
    name="inputs",
    task="binary",
    features={
        "x": Feature(type="number"),
        "on": Feature(type="boolean"),
        "at": Feature(type="timestamp"),
        "v": Feature(type="vector", width=6),
        "city": Feature(type="category"),
        "note": Feature(type="text"),
    },
)


def events(rng: np.random.Generator, n: int, **other: Any) -> Batch:
    """Inputs that are always alike, but for those columns that are given."""
    schema = Schema.of(SPEC)
    columns: dict[str, Any] = {
        "x": rng.normal(size=n),
        "on": (rng.random(n) < 0.3).astype(float),
        "at": rng.uniform(1e9, 1.1e9, n),
        "v": rng.normal(size=(n, 6)).astype(np.float32),
        "city": [f"c{i}" for i in rng.integers(0, 5, n).tolist()],
        "note": ["n" * int(k) for k in rng.integers(1, 20, n)],
    } | other
    return Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(n),
        ids=None,
        sources=None,
        numbers=np.column_stack([columns[name] for name in schema.numbers]),
        vectors=tuple(columns[name] for name, _ in schema.vectors),
        strings=tuple(columns[name] for name in schema.strings),
        labels=["0"] * n,  # type: ignore[arg-type]
        versions=None,
    )


def seen(recent: Batch, past: Batch) -> Seen:
    found = seen_of(SPEC, recent, past)
    assert found is not None
    return msgspec.json.decode(msgspec.json.encode(found), type=Seen)


def watched(trained: Seen | None, *batches: Batch) -> Departed | None:
    inputs = Inputs(SPEC, lambda _: trained)
    for batch in batches:
        inputs.take(batch, None, ("base",))
    return inputs.newest("base")


def test_a_distance_is_known_for_two_bins_and_nothing_is_known_of_one() -> None:
    n, m = (30, 70), (60, 40)
    p, q = 30.5 / 101, 60.5 / 101
    expected = (p - q) * math.log(p / q) + (q - p) * math.log((1 - p) / (1 - q))
    assert distance(n, m).psi == pytest.approx(expected)
    # Twice the relative entropies to the mean of both, as by Wilks.
    ratio = 2 * sum(c * math.log(c / e) for c, e in ((30, 45), (70, 55), (60, 45), (40, 55)))
    assert distance(n, m).nats == pytest.approx((ratio - 1 - math.log(ratio)) / 2)
    assert distance((5, 0), (9, 0)) == (0.0, 0.0)
    assert distance((0, 0), (9, 3)) == (0.0, 0.0)


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=2, max_size=12))
def test_a_distance_is_the_same_both_ways_and_not_below_zero(bins: list[tuple[int, int]]) -> None:
    one, other = zip(*bins, strict=True)
    assert distance(one, other) == pytest.approx(distance(other, one))
    assert distance(one, other).psi >= 0.0
    assert distance(one, other).nats >= 0.0


def test_every_event_is_counted_once_in_each_column_but_points_in_time() -> None:
    rng = np.random.default_rng(1)
    holes = np.where(np.arange(1000) % 10 == 0, np.nan, rng.normal(size=1000))
    cities = [None if i % 4 == 0 else f"c{i % 50}" for i in range(1000)]
    found = seen(events(rng, 1000, x=holes, city=cities), events(rng, 500))
    names = [column.name for column in found.columns]
    assert names == ["x", "on", "city", "note", *(f"v (direction {i})" for i in range(1, 5))]
    assert all((sum(c.recent), sum(c.past)) == (1000, 500) for c in found.columns)
    by_name = {column.name: column for column in found.columns}
    assert (by_name["x"].recent[-1], by_name["city"].recent[-1]) == (100, 250)
    assert by_name["city"].recent[-2] > 0, "the rarest values share a bin"
    assert len(by_name["on"].edges) == 3, "0, 1, and what lies beyond"


def test_too_little_is_no_description() -> None:
    rng = np.random.default_rng(2)
    assert seen_of(SPEC, events(rng, 255), events(rng, 999)) is None
    assert seen_of(SPEC, None, events(rng, 999)) is None


@pytest.mark.parametrize(
    ("feature", "other"),
    [
        ("x", lambda n: {"x": np.full(n, np.nan)}),
        ("x", lambda n: {"x": np.linspace(50, 60, n)}),
        ("on", lambda n: {"on": np.ones(n)}),
        ("city", lambda n: {"city": ["elsewhere"] * n}),
        ("note", lambda n: {"note": ["n" * 500] * n}),
        ("v", lambda n: {"v": np.full((n, 6), np.nan, np.float32)}),
    ],
)
def test_what_leaves_is_named(feature: str, other: Callable[[int], dict[str, Any]]) -> None:
    rng = np.random.default_rng(3)
    trained = seen(events(rng, 2048), events(rng, 1024))
    same = watched(trained, events(rng, LOOK_EVENTS))
    assert same is not None
    assert (same.is_shown, same.index < 0.1) == (False, True)
    left = watched(trained, events(rng, LOOK_EVENTS, **other(LOOK_EVENTS)))
    assert left is not None
    assert (left.is_shown, left.index > DRIFT_MAX, left.feature.startswith(feature)) == (True, True, True)


def test_what_comes_back_to_the_past_has_not_left() -> None:
    rng = np.random.default_rng(4)
    winter = rng.normal(size=1024) - 4.0
    trained = seen(events(rng, 2048), events(rng, 1024, x=winter))
    back = watched(trained, events(rng, LOOK_EVENTS, x=rng.normal(size=LOOK_EVENTS) - 4.0))
    beyond = watched(trained, events(rng, LOOK_EVENTS, x=rng.normal(size=LOOK_EVENTS) + 4.0))
    assert back is not None
    assert beyond is not None
    assert (back.is_shown, beyond.is_shown, beyond.feature) == (False, True, "x")


def test_it_is_forgotten_when_inputs_come_back() -> None:
    rng = np.random.default_rng(5)
    trained = seen(events(rng, 2048), events(rng, 1024))
    inputs = Inputs(SPEC, lambda _: trained)
    told = []
    for shift in (0.0, 5.0, 0.0, 0.0):
        assert inputs.take(events(rng, LOOK_EVENTS, x=rng.normal(size=LOOK_EVENTS) + shift), None, ("base",))
        newest = inputs.newest("base")
        assert newest is not None
        told.append(newest.is_shown)
    # The look after the last that left sees it still in half of the events.
    assert told == [False, True, True, False]


def test_inputs_that_stay_as_they_are_or_wander_as_they_always_have_do_not_leave() -> None:
    def wrong(drawn: Any, shift: float = 0.0) -> int:
        rngs = [np.random.default_rng([7, i]) for i in range(12)]
        return sum(has_left(rng, drawn, 4_096, shift) for rng in rngs)

    assert wrong(independent) == wrong(daily) == 0
    assert wrong(lasting(30)) <= 1
    assert wrong(independent, 1.0) == 12


@settings(max_examples=20)
@given(st.data())
def test_it_goes_on_after_a_restart_at_any_time_as_if_there_had_been_none(data: st.DataObject) -> None:
    rng = np.random.default_rng(6)
    one, other = (seen(events(rng, 300), events(rng, 300)) for _ in range(2))
    known = {"one": one, "other": other}
    whole, broken = Inputs(SPEC, known.get), Inputs(SPEC, known.get)
    for step in range(12):
        n = data.draw(st.integers(1, 300))
        rows = np.arange(0, n, 2) if n > 200 else None
        batch = events(rng, n, x=rng.normal(size=n) + step // 6)
        bases = data.draw(st.sampled_from([("one", ""), ("one", "other"), ("other", ""), ("silent", "")]))
        assert whole.take(batch, rows, bases) == broken.take(batch, rows, bases)
        if data.draw(st.booleans()):
            saved = msgspec.msgpack.decode(msgspec.msgpack.encode(broken.save()))
            broken = Inputs(SPEC, known.get)
            broken.load(saved)
        assert [whole.newest(base) for base in known] == [broken.newest(base) for base in known]
    assert whole.save() == broken.save()


def test_more_columns_and_more_looks_ask_for_more() -> None:
    rng = np.random.default_rng(8)
    trained = seen(events(rng, 4096), events(rng, 4096))
    column = trained.columns[0]
    counts = [np.array(c.recent) for c in trained.columns]
    moved = np.array(column.recent)
    moved[1], moved[2] = moved[1] + 125, moved[2] - 125
    alone = Seen(columns=(msgspec.structs.replace(column, usual=0.0, past=()),))
    assert departed(alone, [moved], 4096, 1).is_shown
    assert not departed(alone, [moved], 4096, 10**6).is_shown
    assert not departed(Seen(columns=alone.columns * 10_000), [moved] * 10_000, 4096, 1).is_shown
    assert departed(trained, counts, 4096, 1).index == 0.0
