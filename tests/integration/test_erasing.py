"""Erasures of a service on this disk, in this process: where the past is taken up, what is refused, whose events go."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from never_saw import never_saw

from penstock.control.erase import ErasureReceipt, erase, look, receipts_of
from penstock.control.folder import locked
from penstock.control.fsck import check
from penstock.control.record import record
from penstock.errors import FolderInUse, NotErasable, UnknownService, UnknownSubject
from penstock.eventlog.interface import Entry
from penstock.eventlog.local import LocalLogReader, LocalLogWriter
from penstock.events import Batch, Kind, Offset, Partition, Version, decode, encode
from penstock.learn.checkpoint import Checkpoints
from penstock.learn.interface import HeldOut
from penstock.learn.journal import StepJournal, read_steps
from penstock.learn.ready import Ready, ReadyManifest, write_ready
from penstock.publish.asked.orders import Order, ask
from penstock.publish.assembly import parts_of, replay_of
from penstock.publish.line import Kept
from penstock.publish.past.erasing import Erasing, Found, Whose, find
from penstock.publish.past.rebuild import STARTS_ANEW
from penstock.publish.publisher import Publisher
from penstock.publish.records.receipts import SqliteReceipts
from penstock.publish.rooms import Rooms
from penstock.publish.weights.live import SharedLiveWeights
from penstock.publish.weights.snapshots import LocalSnapshots
from penstock.replies import Replies
from penstock.service import run_verification
from penstock.spec import Apprentice, ClassName, Feature, Spec
from penstock.testing.local_house import SPEC as HURRIED
from penstock.testing.local_house import Traffic, publisher_of
from penstock.testing.log_conformance import P0

# Checkpoints are written where a test asks for one, however slow the machine is.
SPEC = msgspec.structs.replace(HURRIED, learn=msgspec.structs.replace(HURRIED.learn, checkpoint_every_s=1e9))
NAME = SPEC.name


def learned(data: Path, traffic: Traffic, rounds: int, spec: Spec = SPEC) -> None:
    """More of the traffic, learned by a learner that stops with a checkpoint."""
    publisher = publisher_of(data / NAME, spec=spec)
    publisher.start()
    for _ in range(rounds):
        for _ in range(8):
            traffic.send()
        while publisher.correct() or publisher.step() or publisher.has_backlog():
            pass
        publisher.checkpoint()
    publisher.close()


WATCHED = msgspec.structs.replace(SPEC, gate=msgspec.structs.replace(SPEC.gate, anchors=512))


def anchors_of(data: Path) -> set[tuple[int, int]]:
    """Where the events stand that the service keeps as anchors."""
    publisher = publisher_of(data / NAME, spec=WATCHED)
    publisher.start()
    anchors = publisher._learner.anchors
    assert anchors is not None
    assert anchors.kept is not None
    assert anchors.kept.origins is not None
    publisher.close()
    return {(partition, offset) for partition, offset in anchors.kept.origins.tolist()}


def test_anchors_are_corrected_rebuilt_and_erased_like_everything_else(tmp_path: Path) -> None:
    data = tmp_path
    record({Path("local.yaml"): WATCHED}, data)
    traffic = Traffic(data / NAME, seed=3)
    traffic.subjects = ("a", "b")
    learned(data, traffic, 2, WATCHED)
    traffic.subjects = ("late", "late", "a")
    learned(data, traffic, 3, WATCHED)
    traffic.close()
    steps = list(read_steps(data / NAME / "steps"))
    assert any(step.corrected for step in steps)
    before = anchors_of(data)
    demand_sound(data, steps[-1].version)
    reader = LocalLogReader(data / NAME / "log")
    found = find(reader, WATCHED, Whose(subject="late")).offsets
    reader.close()
    gone = before & {(int(partition), int(offset)) for partition in found for offset in found[partition]}
    assert gone
    assert before - gone
    demand_sound(data, erased(data, "late").version)
    assert not anchors_of(data) & gone


APPRENTICE = msgspec.structs.replace(
    SPEC, gate=msgspec.structs.replace(SPEC.gate, apprentice=Apprentice(of="rules", after_events=64))
)


def evidence_of(data: Path) -> dict[str, Any]:
    """All that is known of the service beside its incumbent."""
    with replay_of(APPRENTICE, data / NAME) as replay:
        list(replay.run())
        return replay.succession.apprenticeship.save()


def test_what_was_erased_leaves_no_trace_in_the_comparison_with_an_incumbent(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    record({Path("local.yaml"): APPRENTICE}, data)
    traffic = Traffic(data / NAME, seed=3)
    traffic.subjects, traffic.incumbent = ("a", "b"), "1"
    learned(data, traffic, 1, APPRENTICE)
    traffic.subjects = ("late", "late", "a")
    learned(data, traffic, 3, APPRENTICE)
    traffic.close()
    (data / NAME / "environments").mkdir()
    shutil.copytree(data, tmp_path / "before")
    before = evidence_of(data)
    assert any(step.apprentice for step in read_steps(data / NAME / "steps"))
    assert before["watch"]["compared"] > 200
    demand_sound(data, erased(data, "late").version)
    after = evidence_of(data)
    assert 0 < after["watch"]["compared"] < before["watch"]["compared"]
    never_saw(tmp_path, NAME, tmp_path / "never")
    assert evidence_of(tmp_path / "never") == after


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped service with a subject that it has known since its second checkpoint, and one that it always knew."""
    data = tmp_path_factory.mktemp("stopped")
    record({Path("local.yaml"): SPEC}, data)
    traffic = Traffic(data / NAME, seed=2)
    traffic.subjects = ("always", "a", "b")
    learned(data, traffic, 2)
    traffic.subjects = ("a", "late", "b", "always")
    learned(data, traffic, 2)
    traffic.close()
    return data


@pytest.fixture
def data(stopped: Path, tmp_path: Path) -> Path:
    copied = tmp_path / "data"
    shutil.copytree(stopped, copied)
    return copied


def erased(data: Path, subject: str) -> ErasureReceipt:
    return erase(data, NAME, Whose(subject=subject), lambda _: None)


def demand_sound(data: Path, version: int) -> None:
    """Nothing is damaged, and the version is rebuilt from a checkpoint and from the beginning."""
    (report,) = check(data, NAME, repair=False)
    assert report.findings == []
    for from_start in (False, True):
        found = run_verification(NAME, data, version, from_start=from_start, progress=lambda *_: None)
        assert found.outcome == "equal", found


def test_what_came_before_the_subject_stays_as_it_was(data: Path) -> None:
    before = list(read_steps(data / NAME / "steps"))
    second = Checkpoints(data / NAME / "checkpoints", 1).read(Checkpoints(data / NAME / "checkpoints", 1).steps()[1])
    receipt = erased(data, "late")
    assert receipt.rebuilt_from == second.step
    assert receipt.withdrawn == (second.version + 1, before[-1].version)
    after = list(read_steps(data / NAME / "steps"))
    assert after[: second.step] == before[: second.step]
    assert [step.number for step in after] == [step.number for step in before]
    assert [step.ranges for step in after] == [step.ranges for step in before]
    assert [step.number for step in after if step.erasure] == [second.step + 1]
    snapshots = LocalSnapshots(data / NAME / "snapshots", NAME).versions()
    assert second.version in snapshots
    assert not [v for v in snapshots if receipt.withdrawn[0] <= v <= receipt.withdrawn[1]]
    demand_sound(data, receipt.version)
    demand_sound(data, second.version)
    receipts = SqliteReceipts(data / NAME / "versions.sqlite", NAME, read_only=True)
    assert receipts.receipt(second.version).cause in ("update", "rollback", "start")
    assert receipts.receipt(Version(second.version + 1)).cause == "erasure"
    assert receipts.check() == []
    receipts.close()


def test_one_erasure_after_the_other(data: Path) -> None:
    highest = list(read_steps(data / NAME / "steps"))[-1].version
    first = erased(data, "late")
    assert first.version > highest
    second = erased(data, "always")
    assert (second.rebuilt_from, second.number) == (0, 2)
    assert second.withdrawn == (1, first.version)
    assert next(iter(read_steps(data / NAME / "steps"))).version == first.version + 1
    assert [receipt.number for receipt in receipts_of(data / NAME)] == [1, 2]
    demand_sound(data, second.version)
    with pytest.raises(UnknownSubject):
        erased(data, "late")


def test_it_goes_on_learning_afterwards_and_its_versions_follow_one_another(data: Path) -> None:
    receipt = erased(data, "always")
    traffic = Traffic(data / NAME, seed=9)
    learned(data, traffic, 1)
    traffic.close()
    last = list(read_steps(data / NAME / "steps"))[-1]
    assert last.version > receipt.version
    demand_sound(data, last.version)


def test_a_folder_in_use_an_unknown_service_and_an_unknown_subject_are_refused(data: Path) -> None:
    with locked(data), pytest.raises(FolderInUse):
        erased(data, "late")
    writer = LocalLogWriter(data / NAME / "log", P0)
    with pytest.raises(FolderInUse):
        erased(data, "late")
    writer.close()
    with pytest.raises(UnknownService):
        erase(data, "nobody", Whose(subject="late"), lambda _: None)
    with pytest.raises(UnknownSubject, match="no event of this subject"):
        erased(data, "Late")
    with pytest.raises(UnknownSubject, match="no event of this id"):
        erase(data, NAME, Whose(id="late"), lambda _: None)


def test_a_log_whose_beginning_is_gone_is_refused_and_left_alone(data: Path) -> None:
    writer = LocalLogWriter(data / NAME / "log", P0, segment_bytes=1)
    batch = events("example", ids=["x"])
    writer.append([Entry(kind=batch.kind, count=1, payload=encode(batch))])
    writer.retain(writer.end(), 0, 0.0, 1e12)
    writer.close()
    before = {path: path.read_bytes() for path in data.rglob("*.log")}
    with pytest.raises(NotErasable, match="retention has removed the log's first events"):
        erased(data, "late")
    assert {path: path.read_bytes() for path in data.rglob("*.log")} == before


def test_steps_that_are_forgotten_are_needed_by_whom_every_checkpoint_knows(data: Path) -> None:
    checkpoints = Checkpoints(data / NAME / "checkpoints", 1)
    kept = checkpoints.steps()[1:]
    shutil.rmtree(data / NAME / "checkpoints" / f"{checkpoints.steps()[0]:020d}")
    for path in sorted((data / NAME / "steps").glob("*.steps")):
        if int(path.stem) <= kept[0]:
            path.unlink()
    found, step, _ = look(data, NAME, Whose(subject="late"), lambda _: None)
    assert (len(found) > 0, step) == (True, kept[0])
    with pytest.raises(NotErasable, match="are forgotten"):
        erased(data, "always")
    receipt = erased(data, "late")
    (report,) = check(data, NAME, repair=False)
    assert report.findings == []
    verified = run_verification(NAME, data, receipt.version, from_start=False, progress=lambda *_: None)
    assert verified.outcome == "equal", verified


def test_a_candidate_that_may_have_known_of_the_events_is_withdrawn_and_one_that_had_not_stays(data: Path) -> None:
    folder = data / NAME
    leave_candidate(folder)
    publisher = with_slow_tier(folder)
    publisher.start()
    while not publisher.take_up():
        pass
    traffic = Traffic(folder, seed=4, asked=100_000)
    traffic.subjects = ("a", "later", "b", "always")
    for _ in range(12):
        traffic.send()
        publisher.step()
    publisher.checkpoint()
    publisher.close()
    traffic.close()
    assert [step.shadow.what for step in read_steps(folder / "steps") if step.shadow][:1] == ["adopted"]

    receipt = erased(data, "later")
    assert receipt.consolidations == []
    demand_sound(data, receipt.version)
    (adopted, *_) = [step for step in read_steps(folder / "steps") if step.shadow]
    assert adopted.shadow is not None
    assert (adopted.shadow.what, (folder / "consolidation" / "ready" / "00000001").is_dir()) == ("adopted", True)

    receipt = erased(data, "always")
    assert receipt.consolidations == [1]
    told = [step.shadow for step in read_steps(folder / "steps") if step.shadow]
    assert [(one.what, one.reason) for one in told] == [("given_up", STARTS_ANEW)]
    assert not (folder / "consolidation").exists()
    demand_sound(data, receipt.version)


def test_a_version_that_was_gone_back_to_by_hand_is_the_one_that_takes_its_place(data: Path) -> None:
    folder = data / NAME
    wanted = LocalSnapshots(folder / "snapshots", NAME).versions(with_state=True)[1]
    ask(folder / "orders", Order(what="roll_back", by="ann", version=wanted))
    publisher = with_slow_tier(folder)
    publisher.start()
    publisher.close()
    (before,) = [step for step in read_steps(folder / "steps") if step.hand]
    published = next(step for step in read_steps(folder / "steps") if step.version == wanted)
    assert before.restored == wanted

    receipt = erased(data, "always")
    (after,) = [step for step in read_steps(folder / "steps") if step.hand]
    takes_its_place = next(step for step in read_steps(folder / "steps") if step.number == published.number).version
    assert after.number == before.number
    assert after.restored == takes_its_place > before.version
    demand_sound(data, receipt.version)


def with_slow_tier(folder: Path) -> Publisher:
    """The service's publisher as a learner's process makes it."""
    parts = parts_of(SPEC, folder, LocalLogReader(folder / "log"), LocalLogReader(folder / "log"))
    rooms = Rooms(
        journal=StepJournal(folder / "steps"),
        checkpoints=Checkpoints(folder / "checkpoints", 1000),
        live=SharedLiveWeights(folder / "live"),
        snapshots=LocalSnapshots(folder / "snapshots", NAME),
        receipts=SqliteReceipts(folder / "versions.sqlite", NAME),
        orders=folder / "orders",
    )
    return Publisher(SPEC, parts.learner, parts.gate, parts.predictor, rooms, slow=parts.slow)


def leave_candidate(folder: Path) -> None:
    """What a consolidation leaves, but for a base of its own: the newest checkpoint's model."""
    newest, _ = Checkpoints(folder / "checkpoints", 1).newest()
    assert newest is not None
    manifest = ReadyManifest(
        number=1,
        reason="request",
        step=newest.step,
        base="",
        needed=newest.needed,
        held_out=HeldOut(events=0, gained=0, lost=0, forgotten=0.0),
    )
    model = Kept.state("model", newest.values["model"], newest.arrays)
    write_ready(folder / "consolidation", Ready(manifest=manifest, learner=newest.values["learner"], model=model))


# Whose events they are ------------------------------------------------------------------------------------------------


def events(kind: str, ids: list[str | None], subjects: list[str | None] | None = None, **more: Any) -> Batch:
    n = len(ids)
    is_feedback = kind == "feedback"
    return Batch(
        kind=Kind[kind.upper()],
        times=np.zeros(n),
        ids=ids,
        sources=None,
        numbers=np.empty((n, 0)),
        vectors=(),
        strings=() if is_feedback else (more.get("users", [None] * n),),
        labels=None if kind == "prediction" else [ClassName("1")] * n,
        versions=np.ones(n, np.uint64) if kind == "prediction" else None,
        subjects=subjects,
    )


OWNED = Spec(name="o", task="multiclass", features={"user": Feature(type="category")}, subject="user")


def written(folder: Path, *batches: Batch) -> LocalLogReader:
    writer = LocalLogWriter(folder / "log", Partition(0))
    for batch in batches:
        writer.append([Entry(kind=batch.kind, count=len(batch), payload=encode(batch))])
    writer.close()
    return LocalLogReader(folder / "log")


def offsets(found: Found) -> list[Offset]:
    return found.offsets.get(Partition(0), [])


def test_feedback_goes_with_its_prediction_and_what_another_says_is_its_own_stays(tmp_path: Path) -> None:
    reader = written(
        tmp_path,
        events("prediction", ["p", "q", "r"], ["me", "you", None]),
        events("feedback", ["p", "q", "p", "early"], None),
        events("feedback", ["p", "p", "r"], ["you", None, "me"]),
        events("prediction", ["early", "p"], ["me", "you"]),
        events("example", [None, None], ["me", None]),
    )
    assert offsets(find(reader, OWNED, Whose(subject="me"))) == [0, 2, 3, 5, 6, 8, 9, 10, 12]
    assert offsets(find(reader, OWNED, Whose(id="p"))) == [0, 3, 5, 7, 8, 11]
    assert len(find(reader, OWNED, Whose(subject="nobody"))) == 0
    reader.close()


def test_what_was_said_and_answered_goes_with_the_events_where_they_may_have_been_known(tmp_path: Path) -> None:
    def answered(*ids: str) -> Batch:
        asked, n = events("prediction", list(ids), ["you"] * len(ids)), len(ids)
        return replace(asked, said=np.ones((n, 3), np.float16), replies=Replies(np.ones((n, 1))))

    reader = written(
        tmp_path, answered("p"), events("example", ["e"], ["me"]), answered("q", "r"), answered("s"), answered("t")
    )
    found = find(reader, OWNED, Whose(subject="me"))
    frames = list(reader.read(Partition(0), Offset(0), reader.ends()[Partition(0)]))
    # What stands before offset 3 was taken before any of the events.
    erasing = Erasing(found, {Partition(0): Offset(3)})
    entries = [erasing(frame) for frame in frames]
    assert (entries[0], [entry.erased for entry in entries[1] or ()]) == (None, [True])
    left = [decode(b"".join(entry.payload)) for changed in entries[2:] for entry in changed or ()]
    assert left[0].said is not None
    assert np.isnan(left[0].said).all(axis=1).tolist() == [False, True]
    assert left[0].replies is not None
    assert left[0].replies.known.tolist() == [True, False]
    assert [(batch.said, batch.replies) for batch in left[1:]] == [(None, None), (None, None)]
    reader.close()


def test_events_of_before_the_service_named_the_feature_are_found_by_it(tmp_path: Path) -> None:
    reader = written(tmp_path, events("example", ["a", "b"], None, users=["me", "you"]), events("feedback", ["a"]))
    assert offsets(find(reader, OWNED, Whose(subject="me"))) == [0, 2]
    for frame in reader.read(Partition(0), Offset(0), Offset(2)):
        assert decode(frame.payload).subjects is None
    reader.close()
