"""What is set aside, what it takes to be learned after all, and what goes when there is no more room."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.events import Batch, Kind, Offset, Partition, Strings, decode, placed
from penstock.gate.sieve import Sieve
from penstock.learn.lately import LearnedLately, labelled_again
from penstock.learn.quarantine import Aside, AsideStep, Place, Quarantine, Reason, Spans
from penstock.learn.slow.history import History
from penstock.spec import Gate, Spec
from penstock.specfile.reader import loads
from penstock.testing.small_house import SPEC, filled_log

places = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60)), max_size=60)


def at(partition: int, offset: int) -> Place:
    return Partition(partition), Offset(offset)


def row(offset: int, reason: Reason = "suspicious", source: str | None = "b") -> Aside:
    return Aside(Partition(0), Offset(offset), reason, "told", source, "yes", 5.0)


def batch_at(said: list[tuple[int, int]]) -> Batch:
    n = len(said)
    whole = Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(n),
        ids=None,
        sources=None,
        numbers=np.zeros((n, 0)),
        vectors=(),
        strings=(),
        labels=None,
        versions=None,
    )
    return replace(whole, places=np.array(said, np.int64).reshape(-1, 2))


@given(places, places)
def test_runs_hold_what_was_added_and_not_discarded(added: list[tuple[int, int]], gone: list[tuple[int, int]]) -> None:
    spans, truth = Spans(1000), set(added)
    spans.add(at(*place) for place in added)
    for place in gone:
        assert spans.discard(at(*place)) == (place in truth)
        truth.discard(place)
    every = [(partition, offset) for partition in range(3) for offset in range(62)]
    assert {place for place in every if at(*place) in spans} == truth
    held = spans.holds(batch_at(every))
    assert {place for place, is_in in zip(every, [] if held is None else held, strict=False) if is_in} == truth
    other = Spans(1000)
    other.load(msgspec.msgpack.decode(msgspec.msgpack.encode(spans.save())))
    assert other.save() == spans.save()


def test_each_event_is_released_or_dropped_once_and_the_oldest_go_when_there_is_no_room() -> None:
    quarantine = Quarantine(kept_max=3)
    quarantine.enter(AsideStep(aside=(row(1, "impossible"), row(2), row(3))))
    assert quarantine.enter(AsideStep(taken_out=(row(0),))).expired == 1
    assert [kept.offset for kept in quarantine.kept] == [2, 3, 0]
    assert quarantine.find([at(0, 1), at(0, 2), at(1, 2)]) == (row(2),)
    quarantine.enter(AsideStep(released=(row(2),)))
    quarantine.enter(AsideStep(dropped=(at(0, 3),)))
    assert quarantine.find([at(0, 2), at(0, 3)]) == ()
    counts = quarantine.counts
    assert (counts.aside, counts.released, counts.dropped, counts.expired, counts.waiting) == (4, 1, 1, 1, 1)
    assert counts.unlearned == 3
    apart = quarantine.apart()
    assert [offset for offset in range(5) if at(0, offset) in apart] == [0, 1, 3]
    other = Quarantine(kept_max=3)
    other.load(msgspec.msgpack.decode(msgspec.msgpack.encode(quarantine.save())))
    assert (other.save(), other.kept, other.counts) == (quarantine.save(), quarantine.kept, quarantine.counts)


def learned(source: Strings | None, first: int) -> Batch:
    numbers = np.arange(first, first + 3, dtype=np.float64).reshape(-1, 1)
    return placed(
        Batch(
            kind=Kind.EXAMPLE,
            times=np.zeros(3),
            ids=None,
            sources=source,
            numbers=numbers,
            vectors=(),
            strings=(),
            labels=[f"{n:g}" for n in numbers[:, 0]],  # type: ignore[misc]
            versions=None,
        ),
        Partition(0),
        range(first, first + 3),
    )


def fetch(partition: Partition, offsets: object) -> Batch:
    wanted = np.array(offsets)
    whole = learned(None, 0)
    numbers = wanted.astype(np.float64).reshape(-1, 1)
    at_them = np.column_stack([wanted * 0, wanted])
    return replace(whole, times=np.zeros(len(wanted)), numbers=numbers, labels=None, places=at_them)


def again(lately: LearnedLately) -> list[str]:
    return [label for batch in lately.again(fetch) for label in batch.labels]  # type: ignore[union-attr, misc]


def test_what_was_learned_since_the_good_version_is_learned_again_without_the_source() -> None:
    lately = LearnedLately(100)
    lately.add(learned(None, 0))
    lately.begin_probation()
    lately.add(learned(["a", "b", None], 3))
    lately.become_good()
    lately.add(learned(["b", "a", "b"], 6))
    lately.add(learned(["b", "b", "b"], 9), vouched=True)
    gone = lately.without(["b"], "why", 7.0)
    assert [(r.offset, r.source, r.label, r.reason) for r in gone] == [
        (4, "b", "4", "suspicious"),
        (6, "b", "6", "suspicious"),
        (8, "b", "8", "suspicious"),
    ]
    assert again(lately) == ["3", "5", "7", "9", "10", "11"]
    assert lately.needed() == {0: 3}
    other = LearnedLately(100)
    other.load(msgspec.msgpack.decode(msgspec.msgpack.encode(lately.save())))
    assert again(other) == again(lately)


def test_what_a_rollback_withdrew_stays_out_once_learning_is_published_again() -> None:
    lately = LearnedLately(100)
    lately.add(learned(None, 0))
    lately.roll_back()
    lately.add(learned(None, 3))
    assert again(lately) == ["0", "1", "2", "3", "4", "5"]
    lately.resume()
    assert again(lately) == ["3", "4", "5"]
    # Nor is more kept than there is room for.
    few = LearnedLately(5)
    few.add(learned(None, 0))
    few.add(learned(None, 3))
    assert again(few) == ["3", "4", "5"]


def test_events_are_read_again_in_the_order_asked_for_whatever_that_of_the_log() -> None:
    said = np.array([[0, 9], [0, 2], [0, 9]])
    batch = labelled_again(said, ["x", "y", "z"], [None, "s", None], fetch)
    assert batch.numbers[:, 0].tolist() == [9.0, 2.0, 9.0]
    assert (batch.labels, batch.sources) == (["x", "y", "z"], [None, "s", None])


BOUNDED = """
name: orders
task: regression
features:
  price: {type: number, min: 0, max: 1000}
  weight: number
  pixels: {type: "vector[2]", max: 1}
  country: {type: category, values: [DE, FR]}
label: {min: 0}
"""


def orders(n: int, **columns: object) -> Batch:
    given = {"price": np.full(n, 5.0), "pixels": np.zeros((n, 2), np.float32), "country": ["DE"] * n}
    given |= {"labels": np.ones(n), "sources": None} | columns
    return Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(n),
        ids=None,
        sources=given["sources"],  # type: ignore[arg-type]
        numbers=np.column_stack([given["price"], np.full(n, -1e9)]),  # type: ignore[list-item]
        vectors=(given["pixels"],),  # type: ignore[arg-type]
        strings=(given["country"],),  # type: ignore[arg-type]
        labels=given["labels"],  # type: ignore[arg-type]
        versions=None,
    )


def test_what_the_service_file_says_cannot_be_is_set_aside_with_its_reason_and_missing_values_are_not() -> None:
    sieve = Sieve(loads(BOUNDED))
    good = orders(2, price=np.array([0.0, np.nan]), country=[None, "FR"], pixels=np.array([[1, 1], [np.nan, np.nan]]))
    assert sieve.look(good, ()) is None
    bad = orders(
        6,
        price=np.array([5.0, -0.5, 1e6, 5.0, 5.0, 5.0]),
        pixels=np.array([[0, 0], [0, 0], [0, 0], [0, 1.5], [0, 0], [0, 0]], np.float32),
        country=["DE", "FR", "DE", "DE", "XX", "DE"],
        labels=np.array([1.0, 1, 1, 1, 1, -1]),
    )
    sifted = sieve.look(bad, ())
    assert sifted is not None
    assert sifted.kept.tolist() == [0]
    assert [(r, reason) for r, reason, _ in sifted.aside] == [(r, "impossible") for r in range(1, 6)]
    told = [words for *_, words in sifted.aside]
    assert told[0] == "price is -0.5, below its min of 0"
    assert told[1] == "price is 1e+06, above its max of 1000"
    assert told[3] == "country is 'XX', which is none of its values"
    assert "label is -1" in told[4]


def test_sources_that_are_not_believed_are_set_aside_and_nobody_else() -> None:
    sieve = Sieve(loads(BOUNDED))
    sifted = sieve.look(orders(4, sources=["a", "b", None, "b"]), ("b",))
    assert sifted is not None
    assert [(r, reason) for r, reason, _ in sifted.aside] == [(1, "suspicious"), (3, "suspicious")]
    nameless = sieve.look(orders(2), (None,))
    assert nameless is not None
    assert len(nameless.aside) == 2


def spec(share: float) -> Spec:
    return msgspec.structs.replace(loads(BOUNDED), gate=Gate(source_share_max=share))


def flood(sieve: Sieve, rng: np.random.Generator, n: int, mix: dict[str | None, float], step: int) -> dict[object, int]:
    """How many of n events of sources with these shares are learned."""
    names, got = list(mix), dict.fromkeys(mix, 0)
    for _ in range(n // step):
        said = [names[int(i)] for i in rng.choice(len(names), step, p=list(mix.values()))]
        sifted = sieve.look(orders(step, sources=said), ())
        kept = range(step) if sifted is None else sifted.kept.tolist()
        assert sifted is None or {reason for _, reason, _ in sifted.aside} == {"flood"}
        for place in kept:
            got[said[place]] += 1
    return got  # type: ignore[return-value]


@pytest.mark.parametrize("step", [1, 50])
def test_a_sudden_flood_gets_no_more_than_its_share_and_the_others_lose_nothing(step: int) -> None:
    rng = np.random.default_rng(1)
    sieve = Sieve(spec(0.5))
    calm: dict[str | None, float] = {"a": 0.5, "b": 0.3, None: 0.2}
    assert sum(flood(sieve, rng, 2000, calm, step).values()) == 2000
    rush: dict[str | None, float] = {"a": 0.1, "b": 0.05, "c": 0.85}
    got = flood(sieve, rng, 400, rush, step)
    honest = got["a"] + got["b"]
    assert honest >= 20
    assert got["c"] < 250
    state = sieve.save()
    other = Sieve(spec(0.5))
    other.load(msgspec.msgpack.decode(msgspec.msgpack.encode(state)))
    mine, others = (flood(one, np.random.default_rng(3), 100, rush, step) for one in (sieve, other))
    assert mine == others


def test_who_has_long_sent_most_or_is_alone_is_no_flood() -> None:
    rng = np.random.default_rng(2)
    most: dict[str | None, float] = {"a": 0.95, "b": 0.05}
    assert sum(flood(Sieve(spec(0.5)), rng, 2000, most, 1).values()) > 1990
    for alone in ({"a": 1.0}, {None: 1.0}):
        assert sum(flood(Sieve(spec(0.1)), rng, 500, dict(alone), 1).values()) == 500
    assert sum(flood(Sieve(spec(1.0)), rng, 500, {"a": 0.5, "b": 0.5}, 1).values()) == 500


def test_who_reads_the_past_again_passes_over_what_is_set_aside_and_counts_it() -> None:
    reader = filled_log(6).reader()

    def rows(history: History) -> list[tuple[float, ...]]:
        return [tuple(row) for batch in history.until(reader.ends()) for row in batch.numbers.tolist()]

    everything = History(SPEC, reader)
    whole = rows(everything)
    first = decode(next(iter(reader.read(Partition(0), Offset(0), Offset(1)))).payload)
    asked = decode(next(iter(reader.read(Partition(1), Offset(0), Offset(1)))).payload)
    apart = Spans(100)
    # An example, and two predictions of which one was answered.
    apart.add([at(0, 0), at(1, 0), at(1, 5)])
    history = History(SPEC, reader, apart=apart)
    left = rows(history)
    assert history.count == everything.count == len(whole)
    gone = [place for before, n in history.withdrawn for place in range(before, before + n)]
    assert [row for place, row in enumerate(whole) if place not in gone] == left
    assert {whole[place] for place in gone} == {tuple(first.numbers[0].tolist()), tuple(asked.numbers[0].tolist())}
