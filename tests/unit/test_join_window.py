"""The join agrees with its contract written event by event, whatever comes, also when saved and loaded between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import msgspec
import numpy as np
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from penstock.events import Batch, Kind, Offset, Partition, Strings, concatenate
from penstock.join.interface import DELAY_EDGES_S
from penstock.join.recent import RecentLabels, remembered_as
from penstock.join.window import JoinWindow
from penstock.replies import Replies
from penstock.spec import Label
from penstock.testing.slow_join import Joined, SlowJoin

# Long and short ids, few enough to meet again.
IDS = [*"abcdefghijkl", "m" * 64, "n" * 65, "n" * 64 + "o"]
keys = st.sampled_from(IDS)
labels = st.sampled_from(["yes", "no", None])
sources = st.sampled_from([None, None, "shop", "phone"])
incumbents = st.sampled_from([None, None, "yes", "perhaps"])
AMONG_FEEDBACK = ("matched", "late", "corrected", "retracted", "feedback_duplicate", "unknown", "early")
partitions = st.sampled_from([Partition(0), Partition(1)])
steps_s = st.sampled_from([0.0, 0.0, 0.5, 1.0, 3.0, 8.0])


def make_batch(
    kind: Kind,
    ids: Strings | None,
    *,
    values: Sequence[float] = (),
    told: Sequence[str | None] = (),
    by: Strings | None = None,
    version: int = 0,
    rival: Sequence[str | None] = (),
) -> Batch:
    n = len(ids) if ids is not None else len(values)
    columns = 0 if kind is Kind.FEEDBACK else 1
    return Batch(
        kind=kind,
        times=np.arange(n, dtype=np.float64),
        ids=ids,
        sources=by,
        numbers=np.array(values, np.float64).reshape(n, columns),
        vectors=(),
        strings=(),
        labels=None if kind is Kind.PREDICTION else list(told),  # type: ignore[arg-type]
        versions=np.full(n, version, np.uint64) if kind is Kind.PREDICTION else None,
        incumbents=list(rival) if any(rival) else None,
        replies=Replies(np.array(values, np.float64)[:, None]) if kind is Kind.PREDICTION else None,
    )


def rows_out(batch: Batch | None) -> list[Joined]:
    if batch is None:
        return []
    assert batch.kind is Kind.EXAMPLE
    n = len(batch)
    ids, by = batch.ids or [None] * n, batch.sources or [None] * n
    versions = [None] * n if batch.versions is None else [version or None for version in batch.versions.tolist()]
    assert isinstance(batch.labels, list)
    assert batch.origins is not None
    origins = [tuple(origin) for origin in batch.origins.tolist()]
    if batch.replies is not None:
        # What was answered goes with its prediction, and examples have nothing of the kind.
        asked = np.array([version is not None for version in versions])
        assert np.array_equal(batch.replies.known, asked)
        assert np.array_equal(batch.replies.values[asked, 0], batch.numbers[asked, 0])
    rivals = batch.incumbents or [None] * n
    columns = (ids, batch.labels, by, batch.numbers[:, 0].tolist(), versions, origins, rivals)
    return [Joined(*row) for row in zip(*columns, strict=True)]


class JoinMachine(RuleBasedStateMachine):
    """Feeds the same events to both, and keeps the log from which predictions are read again."""

    @initialize(
        waiting_max=st.integers(1, 9),
        ids_kept=st.integers(2, 12),
        early_max=st.integers(1, 4),
        closed_max=st.integers(1, 6),
        late=st.sampled_from(["count", "learn"]),
        implicit=st.sampled_from([None, "no"]),
        implicit_at_once=st.integers(1, 4),
    )
    def start(self, waiting_max: int, **bounds: Any) -> None:
        self.bounds: dict[str, Any] = {"early_s": 4.0, "late_for_s": 12.0, **bounds}
        self.waiting_max = waiting_max
        self.join = JoinWindow(10.0, waiting_max, **self.bounds)
        self.join.fetch = self._fetch
        self.model = SlowJoin(10.0, waiting_max, **self.bounds)
        self.log: dict[Partition, list[Batch]] = {Partition(0): [], Partition(1): []}
        self.time = 100.0
        self.value = 0.0
        self.version = 0
        self.told = self.asked = 0

    def _append(self, batch: Batch, partition: Partition, step_s: float) -> tuple[list[Joined], list[Joined], int]:
        """What came out, what the contract labels by default, and the offset of the first event."""
        self.time += step_s
        first = len(self.log[partition])
        self.log[partition] += [batch.rows(slice(i, i + 1)) for i in range(len(batch))]
        by_default = self.model.pass_time(self.time)
        return rows_out(self.join.take(batch, partition, Offset(first), self.time)), by_default, first

    def _values(self, n: int) -> list[float]:
        self.value += n
        return [self.value + i for i in range(n)]

    @rule(
        ids=st.one_of(st.none(), st.lists(st.one_of(st.none(), keys), min_size=1, max_size=5)),
        rival=incumbents,
        partition=partitions,
        step_s=steps_s,
    )
    def examples(self, ids: Strings | None, rival: str | None, partition: Partition, step_s: float) -> None:
        n = 3 if ids is None else len(ids)
        values = self._values(n)
        told = ["yes", "no", "no", "yes", "no"][:n]
        out, by_default, first = self._append(
            make_batch(Kind.EXAMPLE, ids, values=values, told=told, rival=[rival] * n), partition, step_s
        )
        named = [None] * n if ids is None else ids
        passed = [
            self.model.example(named[i], told[i], None, values[i], (partition, first + i), rival) for i in range(n)
        ]
        self.model.examples_end([e.id for e in passed if e is not None and e.id is not None])
        expected = [*by_default, *(e for e in passed if e is not None)]
        assert out == expected

    @rule(
        ids=st.lists(keys, min_size=1, max_size=9), by=sources, rival=incumbents, partition=partitions, step_s=steps_s
    )
    def predictions(
        self, ids: list[str], by: str | None, rival: str | None, partition: Partition, step_s: float
    ) -> None:
        # A batch whose id stands twice asks twice: only the last can be answered, also by an answer that came early.
        values = self._values(len(ids))
        self.version += 1
        self.asked += len(ids)
        n = len(ids)
        batch = make_batch(
            Kind.PREDICTION, list(ids), values=values, by=[by] * n, version=self.version, rival=[rival] * n
        )
        out, by_default, first = self._append(batch, partition, step_s)
        last = {key: i for i, key in enumerate(ids)}
        self.model.counts["expired"] += len(ids) - len(last)
        self.model.predictions_begin(ids)
        joined = [
            self.model.prediction(ids[i], by, values[i], self.version, (partition, first + i), rival)
            for i in sorted(last.values())
        ]
        self.model.predictions_end()
        expected = [*by_default, *(e for e in joined if e is not None)]
        assert out == expected

    @rule(
        asked=st.lists(st.tuples(keys, labels, sources, incumbents), min_size=1, max_size=7),
        partition=partitions,
        step_s=steps_s,
    )
    def feedback(
        self, asked: list[tuple[str, str | None, str | None, str | None]], partition: Partition, step_s: float
    ) -> None:
        ids, told, by, rival = (list(column) for column in zip(*asked, strict=True))
        self.told += len(asked)
        batch = make_batch(Kind.FEEDBACK, ids, told=told, by=by, rival=rival)
        out, by_default, first = self._append(batch, partition, step_s)
        joined = [
            self.model.feedback(key, label, who, (partition, first + i), said)
            for i, (key, label, who, said) in enumerate(asked)
        ]
        expected = [*by_default, *(e for e in joined if e is not None)]
        assert out == expected

    @rule()
    def old_news(self) -> None:
        """A partition that is read late: the clock does not go back."""
        by_default = self.model.pass_time(50.0)
        out = self.join.take(make_batch(Kind.EXAMPLE, None, values=[0.0], told=["no"]), Partition(1), Offset(0), 50.0)
        assert len(rows_out(out)) == 1 + len(by_default)
        self.model.example(None, "no", None, 0.0, (1, 0))

    @rule()
    def save_and_load(self) -> None:
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(self.join.save()))
        other = JoinWindow(10.0, self.waiting_max, **self.bounds)
        other.fetch = self._fetch
        other.load(state, self._fetch)
        assert other.save() == self.join.save()
        self.join = other

    def _fetch(self, partition: Partition, offsets: Sequence[Offset]) -> Batch:
        assert list(offsets) == sorted(offsets)
        assert offsets[0] >= self.needed[partition]
        return concatenate([self.log[partition][offset] for offset in offsets])

    @rule()
    def amendments(self) -> None:
        assert self.join.take_amendments() == self.model.amendments
        self.model.amendments = []

    @invariant()
    def same_books(self) -> None:
        counts, model = self.join.counts, self.model
        told = {name: value for name in counts.__struct_fields__ if (value := getattr(counts, name))}
        gauges = {"early": len(model.early), "waiting": len(model.waiting)}
        assert told == {name: value for name, value in {**model.counts, **gauges}.items() if value}
        # Nothing that was sent is lost from the books.
        assert self.told == sum(getattr(counts, name) for name in AMONG_FEEDBACK)
        self.needed = self.join.needed()
        assert self.needed == model.needed()
        delays = self.join.delays
        assert sum(delays.counts) == counts.matched + counts.late
        assert np.isclose(delays.total_s, sum(model.delays_s))
        for edge, within in zip(DELAY_EDGES_S, np.cumsum(delays.counts), strict=False):
            assert within == sum(d <= edge for d in model.delays_s)


JoinMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40)
TestJoin = JoinMachine.TestCase


def test_as_many_ids_are_remembered_as_the_service_file_says_also_when_they_were_saved() -> None:
    def example(join: JoinWindow, ids: list[str], at: int) -> int:
        n = len(ids)
        batch = Batch(
            kind=Kind.EXAMPLE,
            times=np.zeros(n),
            ids=ids,
            sources=None,
            numbers=np.zeros((n, 1)),
            vectors=(),
            strings=(),
            labels=["1"] * n,
            versions=None,
            subjects=None,
        )
        taken = join.take(batch, Partition(0), Offset(at), 1.0)
        return 0 if taken is None else len(taken)

    for window, still in ((1000, 0), (3000, 1)):
        join = JoinWindow.of(Label(ids_window=window))
        assert example(join, ["first"], 0) == 1
        assert example(join, [f"e{n}" for n in range(2500)], 1) == 2500
        other = JoinWindow.of(Label(ids_window=window))
        other.load(join.save(), lambda partition, offsets: pytest.fail("no prediction waits"))
        assert example(other, ["first"], 2501) == 1 - still


def test_examples_without_ids_are_passed_on_untouched() -> None:
    batch = make_batch(Kind.EXAMPLE, None, values=[1.0, 2.0], told=["yes", "no"])
    out = JoinWindow(1.0, 1).take(batch, Partition(0), Offset(5), 1.0)
    assert out is not None
    assert out.numbers is batch.numbers
    assert out.labels is batch.labels
    assert out.origins is not None
    assert out.origins.tolist() == [[0, 5], [0, 6]]


def test_memory_of_a_large_batch_goes_with_its_answers() -> None:
    ids: Strings = [f"p{i}" for i in range(1000)]
    batch = make_batch(Kind.PREDICTION, ids, values=[float(i) for i in range(1000)], version=3)
    join = JoinWindow(10.0, 1000)
    join.take(batch, Partition(0), Offset(0), 1.0)
    join.take(make_batch(Kind.FEEDBACK, ids[:999], told=["yes"] * 999), Partition(0), Offset(1000), 2.0)
    assert join.counts.waiting == 1
    (group,) = join._waiting._groups.values()
    assert len(group.batch) == 1
    assert group.batch.numbers.base is None
    out = join.take(make_batch(Kind.FEEDBACK, ids[999:], told=["no"]), Partition(0), Offset(1999), 3.0)
    assert rows_out(out) == [Joined("p999", "no", None, 999.0, 3, (0, 1999))]
    assert not join._waiting._groups


def test_numeric_labels_survive_being_early_and_the_way_through_a_checkpoint() -> None:
    join = JoinWindow(10.0, 10)
    told = make_batch(Kind.FEEDBACK, ["a", "b"], told=["", ""])
    told = Batch(**{f: getattr(told, f) for f in told.__slots__} | {"labels": np.array([0.1, -2.5])})
    assert join.take(told, Partition(0), Offset(0), 1.0) is None
    other = JoinWindow(10.0, 10)
    other.load(msgspec.msgpack.decode(msgspec.msgpack.encode(join.save())), lambda partition, offsets: told)
    out = other.take(make_batch(Kind.PREDICTION, ["b", "a"], values=[2.0, 1.0]), Partition(0), Offset(2), 1.5)
    assert out is not None
    assert isinstance(out.labels, np.ndarray)
    assert out.labels.tolist() == [-2.5, 0.1]


def test_ids_are_remembered_across_blocks_filled_in_bulk() -> None:
    recent = RecentLabels(200)

    def see(start: int, stop: int) -> list[int] | None:
        ids = [str(i) for i in range(start, stop)]
        return recent.first_seen(ids, [float(i) for i in range(start, stop)], Partition(3), Offset(start))

    for start in range(0, 1000, 50):
        assert see(start, start + 50) is None
    # 900..999 fill one block, which has just become the one before.
    assert see(850, 1000) == list(range(50))
    assert recent.find("950") == (950.0, 3, 950)
    again = RecentLabels(200)
    again.load(msgspec.msgpack.decode(msgspec.msgpack.encode(recent.save())))
    assert again.find("950") == (950.0, 3, 950)
    assert again.save() == recent.save()


def test_long_ids_are_told_apart_and_never_taken_for_short_ones() -> None:
    long, other = "x" * 70, "x" * 69 + "y"
    kept = remembered_as([long, other, None, "short"])
    assert len({len(k) for k in kept[:2] if k is not None}) == 1
    assert kept[0] != kept[1]
    assert kept[2:] == [None, "short"]
    assert all(k is None or len(k) <= 65 for k in kept)


def test_labels_and_delays_of_an_earlier_checkpoint_are_read() -> None:
    """Ids without labels, ten buckets, and early answers that do not say where they stand."""
    saved = JoinWindow(10.0, 10).save()
    saved["counts"] |= {"matched": 3, "early": 0, "waiting": 0}
    saved["delays"] = [[0, 0, 2, 0, 1, 0, 0, 0, 0, 0, 0], 20.0, 15.0]
    saved["seen"] = {"filling": ["e1"], "before": []}
    saved["answered"] = {"filling": [], "before": ["p1"]}
    saved["early"] = {"ids": ["p2"], "answers": [["yes", None, 5.0]]}
    for name in ("newest", "closed", "amendments"):
        del saved[name]
    join = JoinWindow(10.0, 10)
    join.load(saved, lambda partition, offsets: make_batch(Kind.PREDICTION, []))
    assert sum(join.delays.counts) == 3
    assert join.delays.counts[DELAY_EDGES_S.index(1.0)] == 2
    again = make_batch(Kind.FEEDBACK, ["p1", "e1"], told=["no", "yes"])
    assert join.take(again, Partition(0), Offset(9), 6.0) is None
    assert join.counts.feedback_duplicate == 2
    assert join.take_amendments() == []
    out = join.take(make_batch(Kind.PREDICTION, ["p2"], values=[2.0], version=3), Partition(0), Offset(11), 6.0)
    assert rows_out(out) == [Joined("p2", "yes", None, 2.0, 3, (-1, -1))]


def test_quantiles_of_delays_are_within_a_bucket_of_the_truth() -> None:
    join = JoinWindow(100.0, 1000)
    ids: Strings = [f"p{i}" for i in range(100)]
    join.take(make_batch(Kind.PREDICTION, ids, values=[0.0] * 100), Partition(0), Offset(0), 1000.0)
    assert np.isnan(join.delays.quantile_s(0.5))
    for i in range(100):
        told = make_batch(Kind.FEEDBACK, [f"p{i}"], told=["yes"])
        join.take(told, Partition(0), Offset(100 + i), 1000.0 + (i + 1) / 10.0)
    assert 2.0 <= join.delays.quantile_s(0.5) <= 5.0
    assert 5.0 <= join.delays.quantile_s(0.9) <= 10.0
    assert join.delays.quantile_s(1.0) == 10.0


def test_late_answers_in_another_order_than_their_predictions_meet_their_own() -> None:
    join = JoinWindow(1.0, 10, late="learn")
    asked = make_batch(Kind.PREDICTION, ["a", "b", "c"], values=[1.0, 2.0, 3.0], version=1)
    join.fetch = lambda partition, offsets: concatenate([asked.rows(slice(o, o + 1)) for o in offsets])
    join.take(asked, Partition(0), Offset(0), 10.0)
    told = make_batch(Kind.FEEDBACK, ["c", "a", "b"], told=["yes", "no", "yes"])
    out = rows_out(join.take(told, Partition(0), Offset(3), 20.0))
    assert [(one.id, one.label, one.value) for one in out] == [("c", "yes", 3.0), ("a", "no", 1.0), ("b", "yes", 2.0)]
