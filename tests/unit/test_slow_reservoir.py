"""What is kept for replay: the same for the same stream however it is cut, alike over classes and time, bounded."""

from __future__ import annotations

from itertools import pairwise

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import CheckpointDamaged
from penstock.events import Batch, Kind, Offset, Partition
from penstock.join.interface import Amendment
from penstock.learn.amendments import Amendments
from penstock.learn.checkpoint import to_safetensors
from penstock.learn.interface import State
from penstock.learn.slow.pool import shares
from penstock.learn.slow.reservoir import HELD_OUT, SPAN_EVENTS, SPANS, Reservoir, hashed
from penstock.spec import ClassName, Consolidate, Feature, Label, Spec, Task


def spec(task: Task = "multiclass", replay: int = 60, classes_max: int = 1000) -> Spec:
    return Spec(
        name="s",
        task=task,
        features={"x": Feature(type="number")},
        label=Label(classes_max=classes_max),
        consolidate=Consolidate(replay=replay),
    )


def stream(labels: object, first: int = 0) -> Batch:
    """Event i has the number i and the id ``e<i>``."""
    values = np.asarray(labels)
    n = len(values)
    numeric = values.dtype.kind == "f"
    return Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(n),
        ids=[f"e{first + i}" for i in range(n)],
        sources=None,
        numbers=np.arange(first, first + n, dtype=np.float64)[:, None],
        vectors=(),
        strings=(),
        labels=values if numeric else [ClassName(str(v)) for v in values],
        versions=None,
        origins=np.column_stack([np.zeros(n, np.int64), np.arange(first, first + n)]),
    )


def content(reservoir: Reservoir) -> tuple[bytes, bytes]:
    state = reservoir.save()
    return msgspec.msgpack.encode(state.values), to_safetensors(state.arrays)


def filled(given_spec: Spec, batch: Batch, cuts: list[int]) -> Reservoir:
    reservoir = Reservoir(given_spec)
    for start, stop in pairwise(sorted({0, len(batch), *(cut % len(batch) for cut in cuts)})):
        reservoir.add(batch.rows(slice(start, stop)))
    return reservoir


@settings(max_examples=25)
@given(
    cuts=st.lists(st.integers(0, 10**6), max_size=12),
    looks=st.booleans(),
    seed=st.integers(0, 2**31),
    regression=st.booleans(),
)
def test_the_same_stream_gives_the_same_bytes_however_it_is_cut_and_looked_at(
    cuts: list[int], looks: bool, seed: int, regression: bool
) -> None:
    rng = np.random.default_rng(seed)
    n = SPANS * SPAN_EVENTS + 700  # spans double once
    labels = rng.normal(size=n) if regression else np.repeat(np.arange(7), n // 7 + 1)[:n] // rng.integers(1, 3, n)
    task: Task = "regression" if regression else "multiclass"
    batch = stream(labels)
    whole = filled(spec(task), batch, [])
    pieces = Reservoir(spec(task))
    for start, stop in pairwise(sorted({0, n, *(cut % n for cut in cuts)})):
        pieces.add(batch.rows(slice(start, stop)))
        if looks:
            assert pieces.held_out is None or len(pieces.held_out) <= 30
            saved = pieces.save()
            pieces = Reservoir(spec(task))
            pieces.load(saved)
    assert content(whole) == content(pieces)


def test_replay_is_alike_over_classes_and_over_time_whatever_their_shares_of_the_stream() -> None:
    n = 12 * SPAN_EVENTS
    # Class 0 is everywhere, class 1 comes late and is rare, class 2 has three events.
    labels = np.zeros(n, dtype=int)
    labels[9 * SPAN_EVENTS :: 10] = 1
    labels[[5, 50, 500]] = 2
    reservoir = filled(spec(replay=60), stream(labels), [])
    replay = reservoir.replay
    assert replay is not None
    assert len(replay) == 60
    of = {name: replay.places[np.array(replay.batch.labels) == name] for name in ("0", "1", "2")}
    held_of_two = sum(int(hashed(0, np.array([place]))[0] % HELD_OUT == 0) for place in (5, 50, 500))
    assert len(of["2"]) == 3 - held_of_two
    assert abs(len(of["0"]) - len(of["1"])) <= 1
    per_span = np.bincount(of["0"] // SPAN_EVENTS, minlength=12)
    assert per_span.min() >= 2
    assert per_span.max() - per_span.min() <= 1
    assert (np.diff(replay.places) > 0).all()
    assert replay.batch.numbers[:, 0].tolist() == replay.places.tolist()


def test_held_out_events_are_a_tenth_and_never_among_those_trained_on() -> None:
    reservoir = filled(spec(replay=10_000), stream(np.arange(8000) % 5), [])
    replay, held, recent = reservoir.replay, reservoir.held_out, reservoir.recent
    assert replay is not None
    assert held is not None
    assert recent is not None
    assert 700 < len(held) < 900
    assert len(replay) + len(held) == 8000
    assert set(held.places).isdisjoint(replay.places)
    assert set(held.places).isdisjoint(recent.places)


def test_recent_events_are_bounded_and_the_newest() -> None:
    reservoir = filled(spec(replay=100), stream(np.arange(5000) % 3), [17, 2500])
    recent = reservoir.recent
    assert recent is not None
    assert len(recent) == 400
    trained_on = [place for place in range(5000) if hashed(0, np.array([place]))[0] % HELD_OUT]
    assert recent.places.tolist() == trained_on[-400:]


def test_labels_of_a_regression_are_kept_over_their_whole_range() -> None:
    rng = np.random.default_rng(3)
    labels = np.where(rng.random(6000) < 0.97, rng.normal(size=6000), 50 + rng.normal(size=6000))
    reservoir = filled(spec("regression", replay=80), stream(labels), [])
    replay = reservoir.replay
    assert replay is not None
    kept = np.asarray(replay.batch.labels)
    edges = np.quantile(labels, np.arange(1, 8) / 8)
    assert np.bincount(np.searchsorted(edges, kept), minlength=8).min() >= 5


def test_an_event_can_be_erased_wherever_it_is_kept() -> None:
    reservoir = filled(spec(replay=10_000), stream(np.arange(300) % 3), [])
    held = reservoir.held_out
    assert held is not None
    gone = {"e7", "e8", str((held.batch.ids or [])[0])}
    assert reservoir.erase(gone) == 3
    for kept in (reservoir.replay, reservoir.held_out, reservoir.recent):
        assert kept is not None
        assert gone.isdisjoint(kept.batch.ids or [])
        assert len(kept.batch) == len(kept.places) == len(kept.logits)
    assert reservoir.erase(gone) == 0


def test_classes_beyond_the_limit_are_passed_over() -> None:
    reservoir = filled(spec(classes_max=3), stream(np.arange(100) % 5), [])
    assert reservoir.classes == ("0", "1", "2")
    assert reservoir.count == 60


def test_a_state_of_another_format_is_refused() -> None:
    with pytest.raises(CheckpointDamaged, match="format"):
        Reservoir(spec()).load(State({"format": 99}, {}))


@given(st.lists(st.integers(0, 40), min_size=1, max_size=12), st.integers(0, 200))
def test_shares_are_equal_where_they_can_be_and_give_everything(sizes: list[int], capacity: int) -> None:
    given_sizes = np.array(sizes, np.intp)
    given_shares = shares(given_sizes, capacity)
    assert given_shares.sum() == min(capacity, sum(sizes))
    assert (given_shares <= given_sizes).all()
    # Who got less than another had no more to give, but for the one that remains.
    short = given_shares < given_sizes
    if short.any():
        assert given_shares.max() - given_shares[short].min() <= 1


def said(labels: dict[int, object]) -> Amendments:
    return Amendments([Amendment(Partition(0), Offset(at), label) for at, label in labels.items()])  # type: ignore[arg-type]


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_kept_events_are_those_of_a_stream_that_had_the_right_labels(task: Task) -> None:
    rng = np.random.default_rng(1)
    labels: list[object] = list(rng.normal(size=900)) if task == "regression" else [str(i % 3) for i in range(900)]
    other = {at: (labels[(at + 1) % 900] if at % 7 else None) for at in range(0, 900, 5)}
    given_spec = spec(task, replay=2000)
    right = [other.get(at, label) for at, label in enumerate(labels)]
    wanted = {at: label for at, label in enumerate(right) if label is not None}
    reservoir = filled(given_spec, stream(labels), [100, 333])
    again = Reservoir(given_spec)
    saved = reservoir.save()
    again.load(State(msgspec.msgpack.decode(msgspec.msgpack.encode(saved.values)), saved.arrays))
    for each in (reservoir, again):
        changed = each.amend(said(other))
        assert changed == sum(right[at] != label for at, label in enumerate(labels))
        assert each.amend(said(other)) == 0
        kept = {}
        for part in (each.replay, each.held_out):
            assert part is not None
            told = part.batch.labels.tolist() if isinstance(part.batch.labels, np.ndarray) else part.batch.labels
            kept |= dict(zip(part.places.tolist(), told or [], strict=True))
        assert kept == wanted
        recent = each.recent
        assert recent is not None
        assert all(wanted[place] is not None for place in recent.places.tolist())
    assert content(reservoir) == content(again)


def test_a_corrected_event_counts_as_one_of_its_class() -> None:
    reservoir = filled(spec(replay=40), stream(["a"] * 300 + ["b"] * 300), [])
    kept = reservoir.replay
    assert kept is not None
    corrected = [at for at in kept.places.tolist() if at < 300][:10]
    reservoir.amend(said(dict.fromkeys(corrected, "c")))
    reservoir.add(stream(["a"] * 600, first=600))
    kept = reservoir.replay
    assert kept is not None
    assert kept.batch.labels is not None
    assert sorted(set(kept.batch.labels)) == ["a", "b", "c"]
    assert list(kept.batch.labels).count("c") == 10


def test_a_class_that_there_is_no_room_for_is_let_go() -> None:
    reservoir = filled(spec(replay=40, classes_max=2), stream(["a", "b"] * 20), [])
    assert reservoir.amend(said({0: "c", 1: "a"})) == 2
    assert reservoir.classes == ("a", "b")
