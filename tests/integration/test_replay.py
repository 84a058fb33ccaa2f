"""The past once more: recorded steps give the states of the run that recorded them, from the beginning or from a
checkpoint, and with amendments those of a run whose log had said so from the start."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import msgspec
import numpy as np
import pytest

from penstock.errors import NotAmendable, ReplayDiverged, StepsCorrupt
from penstock.eventlog.interface import Entry, Frame, LogReader
from penstock.events import Batch, Kind, Offset, Partition, Version, decode, encode
from penstock.gate.rule import HarmGate
from penstock.learn.amended import AmendedReader, Amendments
from penstock.learn.block import digest
from penstock.learn.checkpoint import Checkpoints
from penstock.learn.journal import RecordedSteps, StepJournal, read_steps
from penstock.learn.ready import ready_numbers, shelved_numbers
from penstock.learn.steps import Step
from penstock.publish.asked.orders import Order
from penstock.publish.candidates.shadow import Shadows
from penstock.publish.entries import Stamp
from penstock.publish.past.replay import Replay, nearest, published_at
from penstock.publish.publisher import Publisher
from penstock.publish.state import state_hash
from penstock.publish.succession import Succession
from penstock.publish.weights.snapshots import LocalSnapshots
from penstock.spec import ClassName
from penstock.testing.memory_log import MemoryLog
from penstock.testing.small_house import (
    SPEC,
    build_publisher,
    build_succession,
    filled_log,
    learner_over,
    leave_candidate,
    small_events,
)
from penstock.testing.small_learner import SmallPredictor

SCRIPT = ("publish", "probation", "publish", "good", "hold", "publish", "promote", "probation", "roll_back", "publish")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """A run with holds, rollbacks, restarts, an adoption, a refusal and a promotion."""
    folder = tmp_path_factory.mktemp("house")
    return House(folder, filled_log(10))


class House:
    """A finished run, and what it says of itself."""

    def __init__(self, folder: Path, log: MemoryLog) -> None:
        self.folder, self.log = folder, log
        (folder / "before").mkdir()
        plain = build_publisher(folder / "before", log, kept=1000, script=SCRIPT)
        plain.start()
        while plain.step() or plain.has_backlog():
            pass
        plain.close()
        entries = list(read_steps(folder / "before" / "steps"))
        leave_candidate(folder, log, entries, 1, step=4)
        leave_candidate(folder, log, entries, 2, step=10, forgotten=0.5, shift=1)
        self.states: dict[int, str] = {}
        for _ in range(3):
            self._live(lambda publisher: publisher._rooms.journal.last % 13 != 12)
        self.publisher = self._live(lambda _: True)
        self.steps = list(read_steps(folder / "steps"))

    def _live(self, go_on: Callable[[Publisher], bool]) -> Publisher:
        publisher = build_publisher(self.folder, self.log, kept=1000, script=SCRIPT)
        publisher.start()
        while publisher.take_up() or publisher.step() or publisher.has_backlog():
            if not publisher._learner._pending:
                self.states[publisher._rooms.journal.last] = publisher.state_hash()
            if not go_on(publisher):
                break
        else:
            publisher.checkpoint()
        publisher.close()
        return publisher

    def candidate_learned(self, amendments: Amendments) -> bool:
        """Whether the candidate that is adopted had taken one of these events by the step after which it was left."""
        ranges = [taken for step in self.steps if step.number <= 4 for taken in step.ranges]
        return any(p == partition and start <= at < stop for p, start, stop in ranges for partition, at in amendments)

    def replay(self, amendments: Amendments | None = None, steps: Path | None = None) -> Replay:
        reader = self.log.reader()
        amended: LogReader = AmendedReader(reader, amendments) if amendments else reader

        def build(_environment: str) -> Succession:
            return build_succession(self.folder, amended, script=SCRIPT)

        return Replay(build, RecordedSteps(steps or self.folder / "steps"), amendments)


def test_the_run_has_everything_in_it_that_a_replay_has_to_repeat(house: House) -> None:
    assert {step.action for step in house.steps} == {"start", "publish", "hold", "roll_back", "advance"}
    told = [step.shadow.what for step in house.steps if step.shadow]
    assert sorted(told) == ["adopted", "given_up", "promoted"]
    assert sum(bool(step.sealed) for step in house.steps) >= 4
    assert len(house.states) > 20


def test_a_version_that_was_gone_back_to_by_hand_is_rebuilt_where_its_snapshot_is_gone_and_amended_where_it_is_amended(
    tmp_path: Path,
) -> None:
    log = filled_log(8)
    publisher = build_publisher(tmp_path, log, kept=1000, script=("publish",), keeps_past=True)
    publisher.start()
    (tmp_path / "orders").mkdir()
    while publisher.step() or publisher.has_backlog():
        if publisher.progress.version == 5:
            publisher.checkpoint()
        if publisher.progress.version == 12:
            order = Order(what="roll_back", by="ann", version=Version(5))
            (tmp_path / "orders" / "a.order").write_bytes(msgspec.json.encode(order))
            assert publisher.obey()
    publisher.checkpoint()
    expected = publisher.state_hash()
    publisher.close()
    recorded = next(step for step in read_steps(tmp_path / "steps") if step.hand)
    assert recorded.restored == 5
    shutil.rmtree(tmp_path / "snapshots")

    def replayed(amendments: Amendments | None) -> Replay:
        reader = log.reader()
        amended: LogReader = AmendedReader(reader, amendments) if amendments else reader
        replay = Replay(lambda _: build_succession(tmp_path, amended, script=("publish",)), journal, amendments)
        for _ in replay.run():
            pass
        return replay

    journal = RecordedSteps(tmp_path / "steps")
    assert replayed(None).state_hash() == expected
    first = {(Partition(0), Offset(0)): None}
    without = replayed(first)
    assert without.step == journal.last
    assert without.state_hash() != expected
    good = without.succession.earlier.remembered[recorded.restored]
    plain = replayed(None).succession.earlier.remembered[recorded.restored]
    assert digest(good.block) != digest(plain.block), "it is as if the event had never been there"


def test_every_state_since_the_beginning_is_rebuilt(house: House) -> None:
    replay = house.replay()
    seen = 0
    for repeated in replay.run():
        assert repeated.entry == repeated.recorded
        if replay.step in house.states:
            assert replay.state_hash() == house.states[replay.step], f"after step {replay.step}"
            seen += 1
    assert seen == len(house.states)
    assert replay.step == house.steps[-1].number
    assert replay.sealed == sum(bool(step.sealed) for step in house.steps)
    assert replay.carried == []


def test_a_version_is_rebuilt_from_each_checkpoint_before_it(house: House) -> None:
    checkpoints = Checkpoints(house.folder / "checkpoints", 1000)
    snapshots = LocalSnapshots(house.folder / "snapshots", SPEC.name)
    version = max(step.version for step in house.steps if step.weights)
    entry = published_at(RecordedSteps(house.folder / "steps"), version)
    assert entry is not None
    before = [step for step in checkpoints.steps() if step < entry.number]
    assert len(before) >= 2
    for step in before:
        replay = house.replay()
        replay.begin(checkpoints.read(step))
        *_, last = replay.run(entry.number)
        assert last.block is not None
        assert digest(last.block) == digest(snapshots.get(version)) == entry.weights
        assert last.block.head == snapshots.get(version).head


def test_the_nearest_checkpoint_is_the_newest_that_can_be_read_and_has_not_learned_what_is_amended(
    house: House,
) -> None:
    checkpoints = Checkpoints(house.folder / "checkpoints", 1000)
    steps = checkpoints.steps()
    found, damaged = nearest(checkpoints, steps[-1] - 1)
    assert found is not None
    assert (found.step, damaged) == (steps[-2], [])
    second = checkpoints.read(steps[1])
    amended = {(Partition(0), Offset(second.position[Partition(0)])): None}
    found, _ = nearest(checkpoints, steps[-1], amended)
    assert found is not None
    assert found.step == steps[1]
    with pytest.raises(ValueError, match="has learned amended events"):
        house.replay(amended).begin(checkpoints.read(steps[-1]))
    assert nearest(checkpoints, steps[-1], {(Partition(0), Offset(0)): None}) == (None, [])


def test_an_entry_that_says_something_else_is_named(house: House, tmp_path: Path) -> None:
    place = next(i for i, step in enumerate(house.steps) if step.events and i > 20)
    wrong = [*house.steps]
    wrong[place] = replaced(wrong[place], loss_sum=wrong[place].loss_sum + 1e-12)
    with pytest.raises(ReplayDiverged, match=rf"step {place + 1} .*loss_sum was"):
        list(house.replay(steps=written(tmp_path / "wrong", wrong)).run())
    sealed = next(i for i, step in enumerate(house.steps) if step.sealed)
    wrong = [*house.steps]
    wrong[sealed] = replaced(wrong[sealed], sealed="0" * 64)
    with pytest.raises(ReplayDiverged, match=rf"step {sealed + 1} .*the state before it has the hash"):
        list(house.replay(steps=written(tmp_path / "sealed", wrong)).run())


def as_before(entry: Step) -> Step:
    """The entry as a journal has it from before it was written down what was measured."""
    fields = msgspec.msgpack.decode(msgspec.msgpack.encode(entry))
    before = fields[: Step.__struct_fields__.index("measured")]
    return msgspec.msgpack.decode(msgspec.msgpack.encode(before), type=Step)


def test_a_journal_from_before_measurements_were_written_down_is_replayed_and_gone_on_with(
    house: House, tmp_path: Path
) -> None:
    older = [as_before(step) for step in house.steps]
    assert all(step.measured is None for step in older)
    replay = house.replay(steps=written(tmp_path / "older", older))
    assert [repeated.entry for repeated in replay.run()] == older
    assert replay.sealed == sum(bool(step.sealed) for step in house.steps)
    assert replay.state_hash() == house.states[house.steps[-1].number]
    shutil.copytree(house.folder, tmp_path / "house")
    shutil.rmtree(tmp_path / "house" / "steps")
    written(tmp_path / "house" / "steps", older)
    newest = max(Checkpoints(tmp_path / "house" / "checkpoints", 1000).steps())
    shutil.rmtree(next((tmp_path / "house" / "checkpoints").glob(f"*{newest}*")))
    again = build_publisher(tmp_path / "house", house.log, kept=1000, script=SCRIPT)
    again.start()
    assert again.state_hash() == replay.state_hash()
    again.close()


def watched(reader: LogReader) -> Succession:
    """What decides with the whole gate and anchors."""
    learned = msgspec.structs.replace(SPEC.gate, anchors=64, good_after_events=64)
    spec = msgspec.structs.replace(SPEC, gate=learned)
    return Succession(spec, learner_over(reader, spec), HarmGate(spec.gate), SmallPredictor, Shadows(None))


def test_what_the_whole_gate_measured_is_repeated_to_the_byte_and_nobody_asks_it_of_older_entries(
    tmp_path: Path,
) -> None:
    log = filled_log(240)
    succession = watched(log.reader())
    start, _ = succession.begin(Stamp(number=1, time=1.0))
    entries, receipts = [start], succession.enter(start)[0]
    while taken := succession.learner.take() or succession.learner.flush():
        entry, _ = succession.decide(taken, lambda _: Stamp(number=len(entries) + 1, time=1.0))
        entries.append(entry)
        receipts += succession.enter(entry)[0]
    told = [entry.measured for entry in entries if entry.measured is not None]
    assert len(told) == len(entries)
    assert sum(measured.forgotten is not None for measured in told) >= 2
    assert {guard.name for measured in told for guard in measured.guards} >= {"weights", "calibration"}
    assert sum(receipt.forgotten is not None for receipt in receipts) >= 2
    state = state_hash(succession.checkpoint(len(entries)))
    for name, recorded in (("new", entries), ("older", [as_before(entry) for entry in entries])):
        journal = RecordedSteps(written(tmp_path / name, recorded))
        replay = Replay(lambda _: watched(log.reader()), journal)
        assert [repeated.entry for repeated in replay.run()] == recorded
        assert replay.state_hash() == state


def test_a_journal_that_was_forgotten_in_part_is_not_replayed_from_the_beginning(house: House, tmp_path: Path) -> None:
    folder = tmp_path / "steps"
    folder.mkdir()
    for path in sorted((house.folder / "steps").glob("*.steps"))[1:]:
        (folder / path.name).write_bytes(path.read_bytes())
    with pytest.raises(StepsCorrupt, match="step 1 is missing"):
        list(house.replay(steps=folder).run())


def test_everything_since_the_first_event_is_kept_as_long_as_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "before").mkdir()
    log = filled_log(10)
    House(tmp_path / "before", log)
    for name in ("consolidation", "bases"):
        shutil.copytree(tmp_path / "before" / name, tmp_path / name)
    kept = build_publisher(tmp_path, log, kept=2, script=SCRIPT, keeps_past=True)
    kept.start()
    while kept.take_up() or kept.step() or kept.has_backlog():
        kept.checkpoint()
    state = kept.state_hash()
    kept.close()
    assert ready_numbers(tmp_path / "consolidation") == []
    assert shelved_numbers(tmp_path / "consolidation") == [1], "the other was refused, and nothing repeats it"
    assert next(read_steps(tmp_path / "steps")).number == 1
    replay = Replay(
        lambda _: build_succession(tmp_path, log.reader(), script=SCRIPT), RecordedSteps(tmp_path / "steps")
    )
    for _ in replay.run():
        pass
    assert replay.state_hash() == state
    assert replay.sealed > 10

    again = build_publisher(tmp_path, log, kept=2, script=SCRIPT, keeps_past=False)
    again.start()
    writer = log.writer(Partition(2))
    rng = np.random.default_rng(1)
    for i in range(3):
        batch = small_events(Kind.EXAMPLE, rng, 3, 100_000 + 10 * i)
        writer.append([Entry(kind=batch.kind, count=len(batch), payload=encode(batch))])
        again.step()
        again.checkpoint()
    again.close()
    assert shelved_numbers(tmp_path / "consolidation") == []
    assert next(read_steps(tmp_path / "steps")).number > 1


# Amendments ----------------------------------------------------------------------------------------------------------


def amendments_of(log: MemoryLog, kinds: set[Kind], every: int, label: str | None) -> dict[tuple[int, int], str | None]:
    """One in so many events of these kinds, with another label or left out."""
    reader, found = log.reader(), 0
    chosen: dict[tuple[int, int], str | None] = {}
    for partition, end in reader.ends().items():
        for frame in reader.read(partition, Offset(0), end):
            for offset in range(frame.first, frame.first + frame.count):
                found += frame.kind in kinds
                if frame.kind in kinds and found % every == 0:
                    chosen[partition, offset] = label
    return chosen


class SaidSo:
    """A reader of the log as it would be: written anew for label after label, event by event."""

    def __init__(self, log: MemoryLog, amendments: Amendments) -> None:
        self._reader = log.reader()
        self._amendments = amendments

    def __getattr__(self, name: str) -> object:
        return getattr(self._reader, name)

    def read(self, partition: Partition, start: Offset, stop: Offset) -> Iterator[Frame]:
        for frame in self._reader.read(partition, start, stop):
            batch = decode(frame.payload)
            labels = [self._amendments.get((partition, Offset(frame.first + row)), "-") for row in range(len(batch))]
            if None in labels:
                yield from (one for one in self._each(frame, labels) if start <= one.first < stop)
            elif batch.labels is None:
                yield frame
            else:
                said = [own if label == "-" else label for own, label in zip(batch.labels, labels, strict=True)]
                yield changed(frame, frame.first, replace(batch, labels=said))

    @staticmethod
    def _each(frame: Frame, labels: list[object]) -> Iterator[Frame]:
        batch = decode(frame.payload)
        for row, label in enumerate(labels):
            if label is not None:
                yield changed(frame, Offset(frame.first + row), batch.rows(slice(row, row + 1)))


def changed(frame: Frame, first: Offset, batch: Batch) -> Frame:
    payload = memoryview(b"".join(encode(batch)))
    return msgspec.structs.replace(frame, first=first, count=len(batch), payload=payload)


@pytest.mark.parametrize(
    ("kinds", "label"),
    [
        ({Kind.EXAMPLE}, "1"),
        ({Kind.FEEDBACK}, "0"),
        ({Kind.EXAMPLE, Kind.FEEDBACK, Kind.PREDICTION}, None),
        ({Kind.PREDICTION}, None),
    ],
)
def test_amended_states_are_those_of_a_log_that_had_said_so(house: House, kinds: set[Kind], label: str | None) -> None:
    amendments: Amendments = amendments_of(house.log, kinds, 5, label)  # type: ignore[assignment]
    replay = house.replay(amendments)
    other = Replay(
        lambda _: build_succession(house.folder, SaidSo(house.log, amendments), script=SCRIPT),  # type: ignore[arg-type]
        RecordedSteps(house.folder / "steps"),
        {(Partition(99), Offset(0)): None},
    )
    for amended, said in zip(replay.run(), other.run(), strict=True):
        assert amended.entry == said.entry
        assert (amended.block and digest(amended.block)) == (said.block and digest(said.block))
        if label is not None:
            # What waits is saved by the frames that it came in, and these are others where events are left out.
            assert replay.state_hash() == other.state_hash()
    assert replay.state_hash() != house.states[max(house.states)]
    assert replay.succession.progress.position == house.publisher.progress.position
    assert replay.carried == ([1] if house.candidate_learned(amendments) else []), "an adopted one that learned some"


def test_a_frame_with_amendments_comes_in_parts_without_what_is_left_out(house: House) -> None:
    reader = house.log.reader()
    frame = next(f for f in reader.read(Partition(0), Offset(0), reader.ends()[Partition(0)]) if f.count >= 5)
    gone = [frame.first, frame.first + 2, frame.first + 3]
    amendments: Amendments = {(Partition(0), Offset(offset)): None for offset in gone}
    stop = Offset(frame.first + frame.count)
    parts = list(AmendedReader(reader, amendments).read(Partition(0), frame.first, stop))
    kept = [offset for part in parts for offset in range(part.first, part.first + part.count)]
    assert kept == [offset for offset in range(frame.first, stop) if offset not in gone]
    assert all(a.first + a.count < b.first for a, b in pairwise(parts))
    whole = decode(frame.payload)
    for part in parts:
        batch = decode(part.payload)
        assert (
            batch.numbers.tobytes() == whole.rows(slice(part.first - frame.first, None)).numbers[: len(batch)].tobytes()
        )


def test_a_prediction_has_no_label_to_replace(house: House) -> None:
    reader = house.log.reader()
    frame = next(
        f for f in reader.read(Partition(1), Offset(0), reader.ends()[Partition(1)]) if f.kind == Kind.PREDICTION
    )
    amended = AmendedReader(reader, {(Partition(1), frame.first): ClassName("1")})
    with pytest.raises(NotAmendable, match="its own is none"):
        list(amended.read(Partition(1), frame.first, Offset(frame.first + 1)))
    frame = next(f for f in reader.read(Partition(1), Offset(0), reader.ends()[Partition(1)]) if f.kind == Kind.EXAMPLE)
    amended = AmendedReader(reader, {(Partition(1), frame.first): 1.0})
    with pytest.raises(NotAmendable, match="its own is a class"):
        list(amended.read(Partition(1), frame.first, Offset(frame.first + 1)))


def replaced(step: Step, **changes: object) -> Step:
    return Step(**{name: getattr(step, name) for name in Step.__struct_fields__} | changes)


def written(folder: Path, steps: list[Step]) -> Path:
    """A journal of these entries."""
    journal = StepJournal(folder)
    for step in steps:
        journal.append(step)
    journal.close()
    return folder
