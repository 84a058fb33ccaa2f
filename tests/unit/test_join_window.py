"""The join agrees with its contract written event by event, whatever comes, also when saved and loaded between."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st
import msgspec
import numpy as np
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from penstock.events import Batch, Kind, Offset, Partition, Strings, concatenate
from penstock.join.interface import DELAY_EDGES_S
from penstock.join.recent import RecentIds, remembered_as
from penstock.join.window import JoinWindow
from penstock.spec import ClassName
from penstock.testing.slow_join import Joined, SlowJoin

# Long and short ids, few enough to meet again.
IDS = [*"abcdefghijkl", "m" * 64, "n" * 65, "n" * 64 + "o"]
keys = st.sampled_from(IDS)
labels = st.sampled_from(["yes", "no"])
sources = st.sampled_from([None, None, "shop", "phone"])
answers = st.lists(st.tuples(keys, labels, sources), min_size=1, max_size=7)
partitions = st.sampled_from([Partition(0), Partition(1)])
steps_s = st.sampled_from([0.0, 0.0, 0.5, 1.0, 3.0, 8.0])


def make_batch(
    kind: Kind,
    ids: Strings | None,
    *,
    values: Sequence[float] = (),
    told: Sequence[str] = (),
    by: Strings | None = None,
    version: int = 0,
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
        labels=None if kind is Kind.PREDICTION else [ClassName(c) for c in told],
        versions=np.full(n, version, np.uint64) if kind is Kind.PREDICTION else None,
    )


def rows_out(batch: Batch | None) -> list[Joined]:
    if batch is None:
        return []
    assert batch.kind is Kind.EXAMPLE
    n = len(batch)
    ids, by = batch.ids or [None] * n, batch.sources or [None] * n
    versions = [None] * n if batch.versions is None else batch.versions.tolist()
    assert isinstance(batch.labels, list)
    return [Joined(*row) for row in zip(ids, batch.labels, by, batch.numbers[:, 0].tolist(), versions, strict=True)]


class JoinMachine(RuleBasedStateMachine):
    """Feeds the same events to both, and keeps the log from which waiting predictions are read again."""

    @initialize(waiting_max=st.integers(1, 9), ids_kept=st.integers(2, 12), early_max=st.integers(1, 4))
    def start(self, waiting_max: int, ids_kept: int, early_max: int) -> None:
        self.bounds: dict[str, Any] = {"ids_kept": ids_kept, "early_s": 4.0, "early_max": early_max}
        self.waiting_max = waiting_max
        self.join = JoinWindow(10.0, waiting_max, **self.bounds)
        self.model = SlowJoin(10.0, waiting_max, **self.bounds)
        self.log: dict[Partition, list[Batch]] = {Partition(0): [], Partition(1): []}
        self.time = 100.0
        self.value = 0.0
        self.version = 0

    def _append(self, batch: Batch, partition: Partition, step_s: float) -> tuple[list[Joined], int]:
        self.time += step_s
        first = len(self.log[partition])
        self.log[partition] += [batch.rows(slice(i, i + 1)) for i in range(len(batch))]
        self.model.pass_time(self.time)
        return rows_out(self.join.take(batch, partition, Offset(first), self.time)), first

    def _values(self, n: int) -> list[float]:
        self.value += n
        return [self.value + i for i in range(n)]

    @rule(ids=st.one_of(st.none(), st.lists(st.one_of(st.none(), keys), min_size=1, max_size=5)), partition=partitions)
    def examples(self, ids: Strings | None, partition: Partition) -> None:
        n = 3 if ids is None else len(ids)
        values = self._values(n)
        told = ["yes", "no", "no", "yes", "no"][:n]
        out, _ = self._append(make_batch(Kind.EXAMPLE, ids, values=values, told=told), partition, 0.0)
        expected = [self.model.example(None if ids is None else ids[i], told[i], None, values[i]) for i in range(n)]
        assert out == [e for e in expected if e is not None]

    @rule(ids=st.lists(keys, min_size=1, max_size=9), by=sources, partition=partitions, step_s=steps_s)
    def predictions(self, ids: list[str], by: str | None, partition: Partition, step_s: float) -> None:
        # A batch whose id stands twice asks twice: only the last can be answered, also by an answer that came early.
        values = self._values(len(ids))
        self.version += 1
        batch = make_batch(Kind.PREDICTION, list(ids), values=values, by=[by] * len(ids), version=self.version)
        out, first = self._append(batch, partition, step_s)
        last = {key: i for i, key in enumerate(ids)}
        self.model.expired += len(ids) - len(last)
        expected = [
            self.model.prediction(ids[i], by, values[i], self.version, partition, first + i)
            for i in sorted(last.values())
        ]
        assert out == [e for e in expected if e is not None]

    @rule(
        asked=st.lists(st.tuples(keys, labels, sources), min_size=1, max_size=7), partition=partitions, step_s=steps_s
    )
    def feedback(self, asked: list[tuple[str, str, str | None]], partition: Partition, step_s: float) -> None:
        ids, told, by = (list(column) for column in zip(*asked, strict=True))
        out, _ = self._append(make_batch(Kind.FEEDBACK, ids, told=told, by=by), partition, step_s)
        expected = [self.model.feedback(*one) for one in asked]
        assert out == [e for e in expected if e is not None]

    @rule()
    def old_news(self) -> None:
        """A partition that is read late: the clock does not go back."""
        out = self.join.take(make_batch(Kind.EXAMPLE, None, values=[0.0], told=["no"]), Partition(1), Offset(0), 50.0)
        assert len(rows_out(out)) == 1
        self.model.example(None, "no", None, 0.0)

    @rule()
    def save_and_load(self) -> None:
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(self.join.save()))
        needed = self.join.needed()
        other = JoinWindow(10.0, self.waiting_max, **self.bounds)

        def fetch(partition: Partition, offsets: Sequence[Offset]) -> Batch:
            assert list(offsets) == sorted(offsets)
            assert offsets[0] >= needed[partition]
            return concatenate([self.log[partition][offset] for offset in offsets])

        other.load(state, fetch)
        assert other.save() == self.join.save()
        self.join = other

    @invariant()
    def same_books(self) -> None:
        counts, model = self.join.counts, self.model
        assert (counts.examples, counts.duplicates) == (model.examples, model.duplicates)
        assert (counts.matched, counts.feedback_duplicate) == (model.matched, model.feedback_duplicate)
        assert (counts.early, counts.unknown) == (len(model.early), model.unknown)
        assert (counts.waiting, counts.expired) == (len(model.waiting), model.expired)
        assert self.join.needed() == model.needed()
        delays = self.join.delays
        assert sum(delays.counts) == counts.matched
        assert np.isclose(delays.total_s, sum(model.delays_s))
        for edge, within in zip(DELAY_EDGES_S, np.cumsum(delays.counts), strict=False):
            assert within == sum(d <= edge for d in model.delays_s)


JoinMachine.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestJoin = JoinMachine.TestCase


def test_examples_without_ids_are_passed_on_untouched() -> None:
    batch = make_batch(Kind.EXAMPLE, None, values=[1.0, 2.0], told=["yes", "no"])
    assert JoinWindow(1.0, 1).take(batch, Partition(0), Offset(0), 1.0) is batch


def test_memory_of_a_large_batch_goes_with_its_answers() -> None:
    ids: Strings = [f"p{i}" for i in range(1000)]
    batch = make_batch(Kind.PREDICTION, ids, values=[float(i) for i in range(1000)])
    join = JoinWindow(10.0, 1000)
    join.take(batch, Partition(0), Offset(0), 1.0)
    join.take(make_batch(Kind.FEEDBACK, ids[:999], told=["yes"] * 999), Partition(0), Offset(1000), 2.0)
    assert join.counts.waiting == 1
    (group,) = join._waiting._groups.values()
    assert len(group.batch) == 1
    assert group.batch.numbers.base is None
    out = join.take(make_batch(Kind.FEEDBACK, ids[999:], told=["no"]), Partition(0), Offset(1999), 3.0)
    assert rows_out(out) == [Joined("p999", "no", None, 999.0, 0)]
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
    recent = RecentIds(200)
    for start in range(0, 1000, 50):
        assert recent.first_seen([str(i) for i in range(start, start + 50)]) is None
    # 900..999 fill one block, which has just become the one before.
    assert recent.first_seen([str(i) for i in range(850, 1000)]) == list(range(50))


def test_long_ids_are_told_apart_and_never_taken_for_short_ones() -> None:
    long, other = "x" * 70, "x" * 69 + "y"
    kept = remembered_as([long, other, None, "short"])
    assert len({len(k) for k in kept[:2] if k is not None}) == 1
    assert kept[0] != kept[1]
    assert kept[2:] == [None, "short"]
    assert all(k is None or len(k) <= 65 for k in kept)
