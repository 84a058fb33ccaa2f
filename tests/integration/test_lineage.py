"""From versions to events and from events to versions, held against sets of offsets that are moved step by step."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock.errors import UnknownEvent, UnknownVersion
from penstock.events import Kind, Offset, Range, Version, decode
from penstock.learn.journal import RecordedSteps, read_steps
from penstock.learn.steps import Step
from penstock.publish.past.lineage import Archive, united, without
from penstock.publish.records.receipts import SqliteReceipts
from penstock.testing.small_house import SPEC, build_publisher, filled_log

SCRIPT = ("publish", "probation", "publish", "good", "hold", "hold", "publish", "publish", "roll_back", "publish")
Places = set[tuple[int, int]]


class House:
    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, filled_log(12)
        publisher = build_publisher(folder, self.log, kept=1000, script=SCRIPT)
        publisher.start()
        while publisher.step() or publisher.has_backlog():
            pass
        publisher.checkpoint()
        publisher.close()
        self.steps = list(read_steps(folder / "steps"))
        self.receipts = SqliteReceipts(folder / "versions.sqlite", SPEC.name, read_only=True)
        self.archive = Archive(SPEC.name, folder, self.log.reader(), RecordedSteps(folder / "steps"), self.receipts)

    def learned(self) -> Iterator[tuple[Step, Places]]:
        """What the learner has learned from after each step."""
        now: Places = set()
        at: dict[Version, Places] = {}
        for step in self.steps:
            now = now | expanded(step.ranges)
            if step.action == "roll_back" and step.restored is not None:
                now = at[step.restored]
            at[step.version] = at.get(step.version, now) if step.action == "hold" else now
            yield step, now


def expanded(ranges: tuple[Range, ...]) -> Places:
    return {(partition, offset) for partition, start, stop in ranges for offset in range(start, stop)}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return House(tmp_path_factory.mktemp("house"))


def test_a_version_says_all_that_it_has_learned_from_and_what_was_withdrawn(house: House) -> None:
    seen = rollbacks = 0
    everything: Places = set()
    for step, learned in house.learned():
        everything |= expanded(step.ranges)
        if step.action not in ("start", "publish", "roll_back"):
            continue
        found = house.archive.of_version(step.version)
        assert (found.step, found.receipt.version) == (step.number, step.version)
        assert expanded(found.learned) == learned, f"version {step.version}"
        assert expanded(found.withdrawn) == everything - learned
        seen += 1
        rollbacks += step.action == "roll_back"
    assert seen > 20
    assert rollbacks >= 2
    with pytest.raises(UnknownVersion):
        house.archive.of_version(Version(10_000))


def test_an_event_says_where_it_stands_who_learned_it_and_who_took_it_out_again(house: House) -> None:
    reader = house.log.reader()
    places: dict[str, list[tuple[str, int, int]]] = {}
    for partition, end in reader.ends().items():
        for frame in reader.read(partition, Offset(0), end):
            for row, one in enumerate(decode(frame.payload).ids or ()):
                places.setdefault(str(one), []).append((Kind(frame.kind).name.lower(), partition, frame.first + row))
    history = list(house.learned())
    withdrawn = 0
    for event_id in [*places][::7]:
        found = house.archive.of_event(event_id)
        assert sorted((p.kind, p.partition, p.offset) for p in found.places) == sorted(places[event_id])
        assert [p.time for p in found.places] == sorted(p.time for p in found.places)
        for place in found.places:
            key = (place.partition, place.offset)
            at = next(i for i, (step, _) in enumerate(history) if key in expanded(step.ranges))
            assert place.step == history[at][0].number
            versions = [(s, learned) for s, learned in history[at:] if s.action in ("publish", "roll_back")]
            first = next(((s, learned) for s, learned in versions if key in learned), None)
            gone = next((s for s, learned in versions if key not in learned), None)
            assert place.withdrawn_by == (gone.version if gone else None)
            if gone is None or (first is not None and first[0].number < gone.number):
                assert place.version == (first[0].version if first else None)
            withdrawn += gone is not None
            if place.receipt is None:
                assert not versions, "no version has been published since"
            else:
                assert key in expanded(house.receipts.receipt(place.receipt).ranges)
    assert withdrawn > 5
    with pytest.raises(UnknownEvent, match="no event with the id 'nobody'"):
        house.archive.of_event("nobody")


def test_a_prediction_leads_to_the_version_that_answered_it(house: House) -> None:
    asked, answered = house.archive.of_prediction("p0")
    assert next(place.kind for place in asked.places) == "prediction"
    assert {place.kind for place in asked.places} == {"prediction", "feedback"}
    assert answered.version == 1
    assert answered.receipt.cause == "start"
    with pytest.raises(UnknownEvent, match="not as a prediction"):
        house.archive.of_prediction("e0")


def test_events_are_found_by_receipts_where_the_journal_is_forgotten(house: House, tmp_path: Path) -> None:
    (tmp_path / "steps").mkdir()
    blind = Archive(SPEC.name, house.folder, house.log.reader(), RecordedSteps(tmp_path / "steps"), house.receipts)
    for place, known in zip(blind.of_event("e0").places, house.archive.of_event("e0").places, strict=True):
        assert (place.step, place.withdrawn_by) == (None, None)
        assert place.version == place.receipt == known.receipt
    assert blind.of_version(Version(5)).step is None


def test_ranges_without_others() -> None:
    def ranges(*bounds: tuple[int, int, int]) -> list[Range]:
        return list(bounds)  # type: ignore[arg-type]

    whole = ranges((0, 0, 100), (1, 0, 10))
    assert without(whole, ranges((0, 20, 30), (0, 25, 40), (1, 0, 10))) == ranges((0, 0, 20), (0, 40, 100))
    assert without(whole, []) == whole
    assert united(ranges((1, 5, 7), (0, 4, 9), (0, 1, 5), (1, 8, 9))) == ranges((0, 1, 9), (1, 5, 7), (1, 8, 9))
