"""Encoding: exact statistics, missing values in the open, and nothing that a wild value can break."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.events import Batch, Kind, Strings
from penstock.learn.fast.encode import CLIP, Buckets, Encoder
from penstock.learn.fast.maps import FeatureMap
from penstock.spec import Feature, FeatureType, Spec


def _spec(*types: FeatureType) -> Spec:
    features = {f"f{i}": Feature(type=t, width=3 if t == "vector" else None) for i, t in enumerate(types)}
    return Spec(name="s", task="binary", features=features)


def _batch(
    numbers: object = None, *, n: int = 1, vectors: tuple[object, ...] = (), strings: tuple[Strings, ...] = ()
) -> Batch:
    columns = np.zeros((n, 0)) if numbers is None else np.asarray(numbers, dtype=np.float64)
    return Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(len(columns)),
        ids=None,
        sources=None,
        numbers=columns,
        vectors=tuple(np.asarray(v, dtype=np.float32) for v in vectors),
        strings=strings,
        labels=None,
        versions=None,
    )


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(0, 10**6))
def test_statistics_do_not_depend_on_the_steps(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    # None of them is an outlier, which would enter as less than it is once 64 events were seen.
    values = rng.uniform(-1.0, 7.0, size=(sum(sizes), 2))
    values[rng.random(values.shape) < 0.2] = np.nan
    values[0] = 1.0
    encoder = Encoder(_spec("number", "number"))
    at = 0
    for size in sizes:
        encoder.absorb(_batch(values[at : at + size]))
        at += size
    encoded = encoder.encode(_batch(values))[:, :2]
    deviation = np.nanstd(values, axis=0)
    expected = (values - np.nanmean(values, axis=0)) / np.where(deviation > 1e-9, deviation, np.inf)
    assert encoded == pytest.approx(np.clip(np.nan_to_num(expected), -CLIP, CLIP), abs=1e-9)


def test_the_entries_of_a_vector_share_one_mean_and_deviation_and_a_saved_encoder_goes_on_the_same() -> None:
    rng = np.random.default_rng(2)
    entries = rng.normal([0.0, 5.0, 100.0], [1.0, 1.0, 10.0], size=(60, 3)).astype(np.float32)
    entries[::7] = np.nan
    numbers = rng.normal(7.0, 2.0, size=(60, 1))
    encoder = Encoder(_spec("number", "vector"))
    for start in range(0, 60, 13):
        encoder.absorb(_batch(numbers[start : start + 13], vectors=(entries[start : start + 13],)))
    expected = np.nan_to_num((entries - np.nanmean(entries)) / np.nanstd(entries))
    encoded = encoder.encode(_batch(numbers, vectors=(entries,)))
    assert encoded[:, 1:4] == pytest.approx(expected, abs=1e-5)
    assert encoded[:, 0] == pytest.approx((numbers[:, 0] - numbers.mean()) / numbers.std())
    again = Encoder(_spec("number", "vector"))
    again.load(encoder.save())
    assert again.encode(_batch(numbers, vectors=(entries,))).tobytes() == encoded.tobytes()


def test_an_indicator_appears_with_the_first_missing_value_and_stays() -> None:
    encoder = Encoder(_spec("number", "category", "vector"))

    def events(number: float, category: str | None, entry: float) -> Batch:
        return _batch([[number]], vectors=([[entry] * 3],), strings=([category],))

    encoder.absorb(events(1.0, "a", 1.0))
    fixed = encoder.width
    encoder.absorb(events(3.0, None, 2.0))
    assert encoder.width == fixed + 1
    encoder.absorb(events(np.nan, "a", np.nan))
    assert encoder.width == fixed + 3
    # In the order in which they went missing: the category first, then number and vector.
    assert encoder.encode(events(2.0, None, 1.0))[0, fixed:].tolist() == [1.0, 0.0, 0.0]
    assert encoder.encode(events(np.nan, "a", np.nan))[0, fixed:].tolist() == [0.0, 1.0, 1.0]
    assert encoder.encode(events(2.0, "a", 1.0))[0, fixed:].tolist() == [0.0, 0.0, 0.0]


@given(
    st.lists(
        st.floats(allow_nan=True, allow_infinity=True, width=64) | st.sampled_from([1e300, -1e300, 1e-300, 0.0]),
        min_size=1,
        max_size=150,
    )
)
def test_no_number_makes_the_encoding_leave_its_bounds(values: list[float]) -> None:
    encoder = Encoder(_spec("number"))
    for value in values:
        batch = _batch([[value]])
        encoded = encoder.encode(batch)
        assert np.abs(encoded).max() <= CLIP
        encoder.absorb(batch)
    assert np.abs(encoder.encode(_batch([[5.0]]))).max() <= CLIP


def test_a_lone_wild_value_leaves_the_feature_usable_and_a_new_scale_gets_through() -> None:
    rng = np.random.default_rng(1)
    encoder = Encoder(_spec("number"))
    encoder.absorb(_batch(rng.normal(size=(500, 1))))
    encoder.absorb(_batch([[1e300]]))
    near, far = encoder.encode(_batch([[-1.0], [1.0]]))[:, 0]
    assert far - near == pytest.approx(2.0, rel=0.1)
    for _ in range(200):
        encoder.absorb(_batch(100.0 * rng.normal(size=(50, 1))))
    near, far = encoder.encode(_batch([[-100.0], [100.0]]))[:, 0]
    assert far - near == pytest.approx(2.0, rel=0.2)


def test_times_of_day_are_near_across_midnight_and_booleans_are_0_or_1() -> None:
    encoder = Encoder(_spec("timestamp", "boolean"))
    day = 86400.0
    rows = encoder.encode(_batch([[day - 60, 1.0], [day + 60, 0.0], [day * 1.5, np.nan]]))
    assert rows[:, 1].tolist() == [1.0, 0.0, 0.0]
    hours = rows[:, [2, 5]]
    assert np.linalg.norm(hours[0] - hours[1]) < 0.02
    assert np.linalg.norm(hours[0] - hours[2]) > 1.9


def test_texts_have_unit_length_and_similar_ones_are_near() -> None:
    encoder = Encoder(_spec("text"))
    texts: Strings = ["please book a flight to Oslo", "book flights to oslo, please", "what is my balance", "", None]
    rows = encoder.encode(_batch(n=5, strings=(texts,)))
    assert np.linalg.norm(rows, axis=1) == pytest.approx([1, 1, 1, 0, 0])
    assert rows[0] @ rows[1] > 0.5 > rows[0] @ rows[2]


def test_buckets_are_the_same_on_every_machine_and_differ_by_feature() -> None:
    # Computed once, from the definition: blake2b keyed by the feature's name, little endian, modulo the buckets.
    assert [Buckets("colour", 32).of(v) for v in ("red", "green", "blue", "ü")] == [22, 11, 6, 10]
    one, other = Buckets("a", 1 << 20), Buckets("b", 1 << 20)
    assert [one.of(v) for v in "xyz"] != [other.of(v) for v in "xyz"]


def test_values_of_a_category_have_columns_of_their_own_while_there_are_any_and_share_them_by_hash_then() -> None:
    spec = Spec(name="s", task="binary", features={"f": Feature(type="category", buckets=4)})
    encoder = Encoder(spec)
    few: Strings = ["IT", "DE", None, "IT", "FR"]
    assert not encoder.encode(_batch(np.empty((5, 0)), strings=(few,))).any(), (
        "nothing is known of values before they are learned"
    )
    assert encoder.absorb(_batch(np.empty((5, 0)), strings=(few,)))
    rows = encoder.encode(_batch(np.empty((5, 0)), strings=(few,)))[:, :4]
    assert rows.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 1, 0]]
    assert not encoder.absorb(_batch(np.empty((5, 0)), strings=(few,)))
    more: Strings = ["ES", "PT", "NL", "DE"]
    encoder.absorb(_batch(np.empty((4, 0)), strings=(more,)))
    columns = encoder.encode(_batch(np.empty((4, 0)), strings=(more,)))[:, :4].argmax(axis=1)
    hashed = Buckets("f", 4)
    assert columns.tolist() == [3, hashed.of("PT"), hashed.of("NL"), 1]
    restored = Encoder(spec)
    restored.load(encoder.save())
    again = _batch(np.empty((9, 0)), strings=([*few, *more],))
    assert restored.encode(again).tobytes() == encoder.encode(again).tobytes()


def test_random_features_come_from_the_seed_and_leave_indicators_alone() -> None:
    encoded = np.random.default_rng(0).normal(size=(4, 6))
    first = FeatureMap(seed=3, inputs=5, count=40, size=5).features(encoded)
    assert first.tobytes() == FeatureMap(seed=3, inputs=5, count=40, size=5).features(encoded).tobytes()
    assert not np.array_equal(first, FeatureMap(seed=4, inputs=5, count=40, size=5).features(encoded))
    assert np.array_equal(first[:, 40], np.ones(4))
    assert np.array_equal(first[:, 41:], encoded)
    encoded[:, 5] = 1.0
    changed = FeatureMap(seed=3, inputs=5, count=40, size=5).features(encoded)
    assert np.array_equal(first[:, :41], changed[:, :41])


@given(st.integers(0, 10**6), st.integers(1, 40))
def test_whoever_learns_encodes_as_servers_do_to_the_last_bit(seed: int, n: int) -> None:
    rng = np.random.default_rng(seed)
    types: tuple[FeatureType, ...] = ("number", "boolean", "number", "vector")
    plain, compiled = Encoder(_spec(*types)), Encoder(_spec(*types), compiled=True)
    for scale in (1.0, 1e3):
        numbers = rng.normal(3.0, scale, size=(n, 3))
        numbers[rng.random(numbers.shape) < 0.1] = np.nan
        numbers[rng.random(numbers.shape) < 0.05] = np.inf
        batch = _batch(numbers, vectors=(rng.normal(size=(n, 3)),))
        batch.numbers.flags.writeable = False
        assert plain.encode(batch).tobytes() == compiled.encode(batch).tobytes()
        plain.absorb(batch)
        compiled.absorb(batch)
