"""Labels that are corrected or taken back after they were learned: the model becomes what it would have been."""

from __future__ import annotations

import itertools
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from up_process import all_learned, penstock, running, until

from penstock.eventlog.interface import Entry
from penstock.events import Batch, Kind, Partition, Version, encode
from penstock.join.interface import Amendment
from penstock.join.labelled import labels_of, told_by
from penstock.join.window import JoinWindow
from penstock.learn.checkpoint import Checkpoint, Checkpoints, fingerprint
from penstock.learn.fast.model import FastModel
from penstock.learn.fast.predictor import BlockPredictor
from penstock.learn.interface import Model, State
from penstock.learn.journal import RecordedSteps, read_steps
from penstock.learn.learner import Learner
from penstock.learn.outside.registry import outside_members
from penstock.learn.steps import Step
from penstock.publish.corrections import counted
from penstock.publish.past.replay import Replay
from penstock.publish.publisher import CORRECTING_SHARE, Publisher
from penstock.publish.records.receipts import SqliteReceipts
from penstock.publish.rooms import Clocks
from penstock.spec import ClassName, Spec, Task
from penstock.testing.memory_log import MemoryLog
from penstock.testing.small_house import SPEC, build_publisher, build_succession, filled_log, small_learner
from penstock.testing.small_learner import ScriptedGate

SCRIPTS = (
    ("publish",),
    ("publish", "probation", "publish", "good"),
    ("publish", "probation", "publish", "good", "publish", "hold", "publish"),
    ("publish", "probation", "good", "probation", "publish", "roll_back", "publish", "publish"),
    ("roll_back", "probation", "publish", "good", "publish", "roll_back", "probation", "hold", "roll_back", "publish"),
)
"""Without corrections beyond reach: what is gone back to is never older than what can be learned again."""


def run(publisher: Publisher) -> Publisher:
    """Learn all that is in the log, and make good what there is to."""
    publisher.start()
    while publisher.correct() or publisher.step() or publisher.has_backlog():
        pass
    return publisher


class Twin:
    """A model that is told the last word on every event at first, and takes the same steps: each batch as it was
    learned, with other labels, and back to an earlier version wherever the learner went back."""

    def __init__(self, learner: Learner, steps: Sequence[Step]) -> None:
        """The learner is one that knows nothing, over the same log."""
        self.words: dict[tuple[int, int], Any] = {}
        self.batches: list[tuple[Step, Batch | None]] = []
        hear = learner.join.take_amendments

        def heard() -> list[Amendment]:
            said = hear()
            self.words |= {(int(one.partition), int(one.offset)): one.label for one in said}
            return said

        learner.join.take_amendments = heard  # type: ignore[method-assign]
        for step in steps:
            self.batches.append((step, learner.again(step.number, step.ranges).batch if step.ranges else None))

    def learn(self, model: Model) -> str:
        """What becomes of a model that knows nothing."""
        versions: dict[int, State] = {1: model.save()}
        for step, batch in self.batches:
            told = None if batch is None else self._told(batch)
            if told is not None:
                model.learn(told)
            if step.restored is not None:
                model.load(versions[step.restored])
            if step.action in ("publish", "roll_back"):
                versions[step.version] = model.save()
        return model_hash(model)

    def _told(self, batch: Batch) -> Batch | None:
        assert batch.origins is not None
        origins = [tuple(origin) for origin in batch.origins.tolist()]
        labels = [self.words.get(o, label) for o, label in zip(origins, told_by(batch), strict=True)]
        keep = [row for row, label in enumerate(labels) if label is not None]
        if not keep:
            return None
        return replace(batch.rows(np.array(keep, np.intp)), labels=labels_of([labels[row] for row in keep]))


def model_hash(model: Model) -> str:
    state = model.save()
    whole = Checkpoint(
        step=0, version=Version(0), position={}, needed={}, values=state.values, arrays=dict(state.arrays)
    )
    return fingerprint(whole)


def house(folder: Path, log: MemoryLog, script: Sequence[str] = ("publish",), spec: Spec = SPEC) -> Publisher:
    return build_publisher(folder, log, kept=1000, script=script, spec=spec)


def small(**learn: Any) -> Spec:
    return msgspec.structs.replace(SPEC, learn=msgspec.structs.replace(SPEC.learn, **learn))


MEMORY = Path("/dev/shm")


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """No fsync is waited for there, where there is such a thing."""
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as folder:
        yield Path(folder)


@settings(max_examples=20)
@given(st.integers(2, 14), st.sampled_from(SCRIPTS))
def test_the_model_is_that_of_a_learner_that_was_told_the_right_labels_at_first(
    rounds: int, script: tuple[str, ...]
) -> None:
    log = filled_log(rounds, corrected=True)
    with folder_in_memory() as folder:
        publisher = run(house(folder, log, script))
        publisher.close()
        steps = list(read_steps(folder / "steps"))
    counts = publisher.progress.corrections
    assert counts.waiting == 0
    assert sum(len(step.corrected.places) for step in steps if step.corrected) == counts.applied
    twin = Twin(small_learner(log), steps)
    assert model_hash(publisher._learner.model) == twin.learn(small_learner(log).model)


def test_what_that_compares_has_corrections_of_all_kinds_in_it(tmp_path: Path) -> None:
    publisher = run(house(tmp_path, filled_log(30, corrected=True), SCRIPTS[3]))
    publisher.close()
    steps = list(read_steps(tmp_path / "steps"))
    made = [step for step in steps if step.corrected]
    assert publisher.progress.corrections.applied >= 15
    assert publisher.progress.feedback_retracted >= 3
    assert {step.action for step in steps} == {"start", "publish", "roll_back", "advance"}
    assert max(step.corrected.again for step in made if step.corrected) > 30
    receipts = SqliteReceipts(tmp_path / "versions.sqlite", SPEC.name, read_only=True)
    facts = receipts.facts(1000, ["corrected"])
    assert sorted(fact.version for fact in facts) == [step.version for step in made]  # type: ignore[attr-defined]
    assert [fact.named for fact in facts] == [step.corrected.places for step in reversed(made) if step.corrected]  # type: ignore[attr-defined]
    for step in made:
        receipt = receipts.receipt(step.version)
        assert (receipt.cause, receipt.events) == ("correction", 0)
        assert step.corrected is not None
        assert f"Labels of {counted(len(step.corrected.places))} learned before" in receipt.verdict
    receipts.close()


TASKS: dict[Task, Any] = {
    "binary": lambda x: ClassName(str(int(x[0] > 0))),
    "multiclass": lambda x: ClassName(str(int(x[0] > 0) + int(x[1] > 1))),
    "multilabel": lambda x: tuple(ClassName(n) for n, v in zip("ab", x, strict=True) if v > 0),
    "regression": lambda x: float(x[0] - x[1]),
    "counts": lambda x: float(int(abs(x[0]) * 3)),
}


def log_of(task: Task, rounds: int, back: int) -> MemoryLog:
    """Examples, predictions and answers of which many are wrong; of the newest so many some are corrected, and some
    taken back."""
    log, rng, ticks = MemoryLog(clock=lambda: 1000.0 + 0.1 * next(ticks)), np.random.default_rng(7), itertools.count()
    writer, numbers = log.writer(Partition(0)), rng.normal(size=(rounds * 8, 2))
    nothing = np.nan if task in ("regression", "counts") else None
    right = [TASKS[task](x) for x in numbers]

    def append(kind: Kind, rows: Sequence[int], labels: Sequence[Any] | None) -> None:
        batch = Batch(
            kind=kind,
            times=np.zeros(len(rows)),
            ids=[f"i{row}" for row in rows],
            sources=None,
            numbers=np.empty((len(rows), 0)) if kind is Kind.FEEDBACK else numbers[list(rows)],
            vectors=(),
            strings=(),
            labels=None if labels is None else labels_of([nothing if x is None else x for x in labels]),
            versions=np.ones(len(rows), np.uint64) if kind is Kind.PREDICTION else None,
        )
        writer.append([Entry(kind=kind, count=len(rows), payload=encode(batch))])

    for n in range(rounds):
        rows = range(8 * n, 8 * n + 8)
        told = [right[row] if rng.random() < 0.6 else right[int(rng.integers(len(right)))] for row in rows]
        append(Kind.EXAMPLE, rows[:4], told[:4])
        append(Kind.PREDICTION, rows[4:], None)
        append(Kind.FEEDBACK, rows[4:], told[4:])
        if n % 3 == 2:
            again = sorted(rng.choice(range(max(0, 8 * n - back), 8 * n), size=6, replace=False).tolist())
            append(Kind.FEEDBACK, again, [right[row] if rng.random() < 0.8 else None for row in again])
    return log


MEMBERS = ("river.tree.HoeffdingTreeClassifier(grace_period=5)", "sklearn.linear_model.SGDClassifier()")


@pytest.mark.parametrize(
    ("task", "within", "back", "members"),
    [
        *((task, 10_000, 10_000, ()) for task in TASKS),
        ("binary", 30, 22, ()),
        ("regression", 30, 22, ()),
        ("binary", 30, 22, MEMBERS),
    ],
)
def test_every_task_is_corrected_to_the_byte(
    tmp_path: Path, task: Task, within: int, back: int, members: tuple[str, ...]
) -> None:
    spec = small(random_features=16, tree_window=0 if members else 256, corrections_within=within, members=members)
    spec = msgspec.structs.replace(spec, task=task)
    log = log_of(task, 30, back)
    outside = outside_members(spec, tmp_path)

    def model() -> FastModel:
        return FastModel(spec, outside=outside)

    def learner() -> Learner:
        return Learner(spec, log.reader(), JoinWindow.of(spec.label), model())

    fast = learner()
    publisher = Publisher(
        spec,
        fast,
        ScriptedGate(("publish", "probation", "publish", "good")),
        lambda block: BlockPredictor(block, spec, outside=outside),
        house(tmp_path, log)._rooms,
        Clocks(now=lambda: fast.log_time, elapsed=lambda: fast.log_time, cpu=lambda: 0.0),
    )
    run(publisher).close()
    assert publisher.progress.corrections.applied >= 12
    assert publisher.progress.corrections.beyond == 0
    steps = list(read_steps(tmp_path / "steps"))
    assert model_hash(fast.model) == Twin(learner(), steps).learn(model())


def test_a_replay_gives_every_state_and_entry_again_also_from_checkpoints(tmp_path: Path) -> None:
    log, script = filled_log(10, corrected=True), SCRIPTS[3]
    spec = small(corrections_within=40)
    publisher = house(tmp_path, log, script, spec)
    publisher.start()
    states: dict[int, str] = {}
    while publisher.correct() or publisher.step() or publisher.has_backlog():
        if not publisher._learner._pending:
            states[publisher._rooms.journal.last] = publisher.state_hash()
    publisher.close()
    assert publisher.progress.corrections.applied > 5
    assert publisher.progress.corrections.beyond > 0
    checkpoints = Checkpoints(tmp_path / "checkpoints", 1000)
    for start in [None, *checkpoints.steps()]:
        build = lambda _: build_succession(tmp_path, log.reader(), script=script, spec=spec)  # noqa: E731
        replay = Replay(build, RecordedSteps(tmp_path / "steps"))
        replay.begin(None if start is None else checkpoints.read(start))
        for repeated in replay.run():
            assert repeated.entry == repeated.recorded
            if replay.step in states:
                assert replay.state_hash() == states[replay.step], f"from {start}, after step {replay.step}"


def test_what_is_too_long_ago_is_counted_and_changes_nothing(tmp_path: Path) -> None:
    log = filled_log(12, corrected=True)
    for name, spec in (("none", small(corrections="next_consolidation")), ("few", small(corrections_within=1))):
        publisher = run(house(tmp_path / name, log, spec=spec))
        publisher.close()
        counts = publisher.progress.corrections
        changed = publisher.progress.feedback_corrected + publisher.progress.feedback_retracted
        assert 0 < counts.beyond <= changed
        assert counts.applied == 0 or name == "few"
        assert any(step.corrected for step in read_steps(tmp_path / name / "steps")) == (counts.applied > 0)


def test_a_flood_of_corrections_leaves_time_for_what_is_new(tmp_path: Path) -> None:
    ticks = itertools.count()
    clocks = Clocks(now=lambda: 0.0, elapsed=lambda: float(next(ticks)), cpu=lambda: 0.0)
    publisher = build_publisher(tmp_path, filled_log(40, corrected=True), script=("publish",), clocks=clocks)
    publisher.start()
    spent: list[tuple[int, int]] = []
    while publisher.has_backlog() or publisher.progress.corrections.waiting:
        began = next(ticks)
        if publisher.correct():
            spent.append((began, next(ticks)))
        publisher.step()
    publisher.close()
    assert len(spent) >= 3
    # Inside it the clock is read once more after the beginning, and once before the end.
    pauses = [(later[0] + 1 - (end - 1)) / (end - began - 2) for (began, end), later in pairwise(spent)]
    assert min(pauses) >= 1.0 / CORRECTING_SHARE - 1.0
    assert publisher.progress.corrections.applied >= 30


def test_how_steps_are_gathered_does_not_change_when_they_are_corrected(tmp_path: Path) -> None:
    log = filled_log(10, corrected=True)
    run(house(tmp_path / "one", log)).close()
    still = Clocks(now=lambda: 0.0, elapsed=lambda: 0.0, cpu=lambda: 0.0)
    run(build_publisher(tmp_path / "many", log, script=("publish",), kept=1000, clocks=still)).close()
    one, many = (
        [(step.ranges, step.corrected) for step in read_steps(tmp_path / name / "steps")] for name in ("one", "many")
    )
    assert one == many


def test_a_running_service_makes_good_what_it_was_told_wrong_and_its_versions_are_verified(tmp_path: Path) -> None:
    (tmp_path / "orders.yaml").write_text(
        "name: orders\ntask: binary\nfeatures: {price: number}\nlabel: {name: returned}\n"
        "learn: {random_features: 16, checkpoint_every: 1s}\nconsolidate: {when: never}\n"
    )
    with running(tmp_path / "orders.yaml", tmp_path / "data") as up, up.client() as client:
        rows = [{"id": f"e{n}", "features": {"price": n % 10}, "label": int(n % 10 > 4)} for n in range(300)]
        wrong = [{**row, "label": 1 - row["label"]} if n % 5 == 0 else row for n, row in enumerate(rows)]  # type: ignore[operator]
        for at in range(0, 300, 60):
            client.examples("orders", wrong[at : at + 60])
        assert all_learned(client, ["orders"]) == {"orders": 300}
        client.feedback("orders", [{"id": row["id"], "label": row["label"]} for row in rows])
        until(lambda: client.status("orders")["feedback"]["made_good"] == 60, "the model was not corrected")
        again = client.status("orders")["feedback"]["learned_again"]
        assert again >= 60
        counted = urlopen(f"{client.url}/metrics").read().decode()
        assert 'penstock_corrections_made_good_total{service="orders"} 60.0' in counted
        assert f'penstock_corrections_learned_again_total{{service="orders"}} {again:.1f}' in counted
        seconds = re.search(r'penstock_correcting_seconds_total{service="orders"} (\S+)', counted)
        assert seconds is not None
        assert float(seconds[1]) > 0.0
        client.examples("orders", [{"features": {"price": 2}, "label": 0}] * 20)
        until(lambda: any(r["cause"] == "correction" for r in client.versions("orders")), "no receipt says so")
        made = next(r["version"] for r in client.versions("orders") if r["cause"] == "correction")
        until(lambda: client.versions("orders", limit=1)[0]["version"] > made, "nothing was learned behind it")
        newest = client.versions("orders", limit=1)[0]["version"]
        told = penstock("why", "orders", str(made), home=tmp_path, url=client.url)
        assert "makes good what was learned with other labels: Labels of" in told.stderr
        assert up.stop() == 0
    for version in (made - 1, made, newest):
        done = penstock(
            "verify", "orders", str(version), "--from-start", "--data", str(tmp_path / "data"), home=tmp_path
        )
        assert done.returncode == 0, done.stdout + done.stderr
