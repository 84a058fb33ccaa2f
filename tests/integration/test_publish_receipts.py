"""Receipts in SQLite: once, in order, and thinned by age into spans that cover every event."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from penstock.errors import ReceiptsUnavailable, UnknownVersion
from penstock.events import Offset, Partition, Version
from penstock.facts import Fact, Held, Published, RolledBack
from penstock.learn.steps import Step, StepAction
from penstock.publish.interface import Receipt, Receipts
from penstock.publish.records import receipts as module
from penstock.publish.records.account import Account, bounded_mean
from penstock.publish.records.receipts import SqliteReceipts
from penstock.publish.records.withdrawals import withdrawn_by
from penstock.testing.memory_publish import MemoryReceipts

SERVICE = "small"


def steps(count: int) -> list[Step]:
    """A start, then updates of two events each over two partitions, with a held step before every seventh version and a
    rollback at every 400th."""
    made = [Step(number=1, action="start", ranges=(), version=Version(1), time=100.0)]
    ends = [0, 0]
    while len(made) < count:
        number = len(made) + 1
        partition = number % 2
        start, ends[partition] = ends[partition], ends[partition] + 2
        action: StepAction = "hold" if number % 7 == 0 else "roll_back" if number % 400 == 1 else "publish"
        made.append(
            Step(
                number=number,
                action=action,
                ranges=((Partition(partition), Offset(start), Offset(start + 2)),),
                version=Version(made[-1].version + (action != "hold")),
                restored=made[-1].version if action == "roll_back" else None,
                taken=2,
                events=2,
                loss_sum=0.5,
                served_sum=0.75,
                gain=(0.1, -1.0, 1.0, 2),
                verdict=f"step {number}",
                weights=f"{number:064d}" if number % 5000 == 0 else "",
                cpu_s=0.25,
                time=100.0 + number,
            )
        )
    return made


def enter(receipts: Receipts, entries: list[Step], account: Account | None = None) -> None:
    account = account or Account(SERVICE)
    for entry in entries:
        receipts.write(*account.enter(entry))


@pytest.fixture(params=["sqlite", "memory"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], SqliteReceipts | MemoryReceipts]:
    if request.param == "memory":
        memory = MemoryReceipts(SERVICE)
        return lambda: memory
    return lambda: SqliteReceipts(tmp_path / "versions.sqlite", SERVICE)


def test_receipts_and_facts_come_back_newest_first_however_often_they_are_written(
    make: Callable[[], SqliteReceipts | MemoryReceipts],
) -> None:
    for _ in range(3):
        receipts = make()
        enter(receipts, steps(30))
        receipts.flush(durably=True)
        found = receipts.newest(100)
        assert [r.version for r in found] == list(range(found[0].version, 0, -1))
        assert receipts.highest() == found[0].version
        assert receipts.receipt(Version(3)) == found[-3]
        assert [r.version for r in receipts.newest(2, before=Version(10))] == [9, 8]
        facts = receipts.facts(100)
        assert [fact.at for fact in facts] == sorted((fact.at for fact in facts), reverse=True)
        assert len(facts) == len(found) + 4, "one for each version and one for each time that updates were held back"
        assert {type(fact) for fact in receipts.facts(100, ["held"])} == {Held}
        for nowhere in (99, 2**63, 10**99):
            with pytest.raises(UnknownVersion, match=f"no version {nowhere}; the newest is {found[0].version}"):
                receipts.receipt(Version(nowhere))
        receipts.close()


def test_a_receipt_adds_up_all_steps_since_its_parent() -> None:
    account = Account(SERVICE)
    made: list[Receipt] = []
    facts: list[Fact] = []
    for entry in steps(8):
        receipts, more = account.enter(entry)
        made += receipts
        facts += more
    assert [receipt.cause for receipt in made] == ["start"] + ["update"] * 6
    last = made[-1]
    assert (last.version, last.parent, last.held, last.events) == (7, 6, 1, 4)
    assert last.ranges == ((1, 4, 6), (0, 6, 8)), "in the order in which they were taken"
    assert last.loss == bounded_mean(1.0, 4)
    assert last.parent_loss == bounded_mean(1.5, 4)
    assert last.cpu_s == 0.5
    assert [type(fact) for fact in facts] == [Published] * 6 + [Held, Published]
    assert not account.holding


def test_a_rollback_says_what_was_withdrawn_and_restored() -> None:
    account = Account(SERVICE)
    for entry in steps(10):
        account.enter(entry)
    entry = Step(number=11, action="roll_back", ranges=(), version=Version(10), restored=Version(4), verdict="harm")
    (receipt,), (fact,) = account.enter(entry)
    assert (receipt.cause, receipt.restores, receipt.parent) == ("rollback", 4, 9)
    assert isinstance(fact, RolledBack)
    assert (fact.withdrawn, fact.restored, fact.version) == (9, 4, 10)
    assert account.rollbacks == 1


def test_the_account_says_why_updates_are_held_back_from_a_rollback_to_the_next_version() -> None:
    account = Account(SERVICE)

    def enter(number: int, action: str, version: int, verdict: str) -> str:
        restored = Version(1) if action == "roll_back" else None
        entry = Step(
            number=number, action=action, ranges=(), version=Version(version), restored=restored, verdict=verdict
        )  # type: ignore[arg-type]
        account.enter(entry)
        again = Account(SERVICE)
        again.load(account.save())
        assert again.holding == account.holding
        return account.holding

    assert enter(1, "start", 1, "begun") == ""
    assert enter(2, "publish", 2, "fine") == ""
    assert enter(3, "roll_back", 3, "harm") == "harm"
    assert enter(4, "advance", 3, "somebody tried to resume") == "harm"
    assert enter(5, "hold", 3, "not yet") == "not yet"
    assert enter(6, "publish", 4, "proved") == ""


def test_a_version_is_withdrawn_by_the_first_rollback_behind_which_it_stood(
    make: Callable[[], SqliteReceipts | MemoryReceipts],
) -> None:
    receipts, account = make(), Account(SERVICE)
    moves: list[tuple[str, int | None]] = [("start", None), *[("publish", None)] * 4]
    moves += [("roll_back", 3), ("publish", None), ("roll_back", 2), ("publish", None)]
    for number, (action, restored) in enumerate(moves, 1):
        version = Version(number)
        back = None if restored is None else Version(restored)
        entry = Step(number=number, action=action, ranges=(), version=version, restored=back, time=float(number))  # type: ignore[arg-type]
        receipts.write(*account.enter(entry))
    receipts.flush()
    found = {number: withdrawn_by(Version(number), receipts) for number in range(1, 10)}
    assert found == {1: None, 2: None, 3: 8, 4: 6, 5: 6, 6: 8, 7: 8, 8: None, 9: None}
    receipts.close()


def test_the_account_goes_on_after_a_restart_as_if_there_had_been_none() -> None:
    whole, first = Account(SERVICE), Account(SERVICE)
    entries = steps(60)
    expected = [whole.enter(entry) for entry in entries]
    for cut in range(60):
        if cut:
            assert first.enter(entries[cut - 1]) == expected[cut - 1]
        second = Account(SERVICE)
        second.load(first.save())
        assert [second.enter(entry) for entry in entries[cut:]] == expected[cut:]


def test_old_updates_become_spans_that_cover_every_version_and_every_event_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SINGLE_VERSIONS", 1000)
    entries = steps(30_000)
    receipts = SqliteReceipts(tmp_path / "versions.sqlite", SERVICE)
    enter(receipts, entries)
    receipts.flush()
    rows = receipts.newest(100_000)
    newest = rows[0].version
    assert len(rows) < 3_000
    assert [row.version - row.parent for row in rows[:1000]] == [1] * 1000, "the newest stay single"
    for older, newer in zip(rows[1:], rows, strict=False):
        assert newer.parent == older.version
    taken: dict[int, int] = {0: 0, 1: 0}
    for row in reversed(rows):
        for partition, start, stop in row.ranges:
            assert taken[partition] == start, f"version {row.version} leaves a hole before its events"
            taken[partition] = stop
        if row.version - row.parent > 1:
            assert row.cause == "update"
            assert (row.version - row.parent) * 100 <= newest - row.parent
    assert sum(taken.values()) == sum(entry.taken for entry in entries)
    assert sum(row.held for row in rows) == sum(entry.action == "hold" for entry in entries)
    assert sum(row.events for row in rows) == sum(entry.events for entry in entries)
    covering = receipts.receipt(Version(20))
    assert covering.parent < 20 <= covering.version
    assert covering.loss is not None
    assert covering.loss.mean == pytest.approx(0.25)
    assert covering.loss == bounded_mean(covering.loss.mean * covering.events, covering.events)
    materialised = [entry.version for entry in entries if entry.weights]
    assert [receipts.receipt(version).weights for version in materialised] == [e.weights for e in entries if e.weights]
    receipts.close()


def test_the_rows_do_not_depend_on_batches_restarts_or_repetition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SINGLE_VERSIONS", 1000)
    entries = steps(6_000)

    def rows(file: Path) -> list[tuple[object, ...]]:
        with sqlite3.connect(file) as connection:
            return (
                connection.execute("SELECT * FROM receipts ORDER BY version").fetchall()
                + connection.execute("SELECT * FROM facts ORDER BY at, kind, body").fetchall()
            )

    at_once = SqliteReceipts(tmp_path / "at-once.sqlite", SERVICE)
    enter(at_once, entries)
    at_once.close()
    account = Account(SERVICE)
    for start in range(0, 6_000, 700):
        piecewise = SqliteReceipts(tmp_path / "piecewise.sqlite", SERVICE)
        enter(piecewise, entries[:start])
        piecewise.flush()
        enter(piecewise, entries[start : start + 700], account)
        piecewise.close()
    assert rows(tmp_path / "at-once.sqlite") == rows(tmp_path / "piecewise.sqlite")


def test_other_processes_read_while_the_learner_writes(tmp_path: Path) -> None:
    file = tmp_path / "versions.sqlite"
    reader = SqliteReceipts(file, SERVICE, read_only=True)
    assert (reader.newest(10), reader.highest(), reader.facts(10)) == ([], 0, [])
    writer = SqliteReceipts(file, SERVICE)
    enter(writer, steps(5))
    writer.flush()
    assert reader.highest() == 5
    enter(writer, steps(6))
    writer.close()
    assert reader.highest() == 6, "closing writes what waits"
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._open().execute("DELETE FROM receipts")
    reader.close()


def test_the_thread_writes_by_itself_and_its_failure_reaches_the_learner(tmp_path: Path) -> None:
    receipts = SqliteReceipts(tmp_path / "versions.sqlite", SERVICE)
    enter(receipts, steps(3))
    reader = SqliteReceipts(tmp_path / "versions.sqlite", SERVICE, read_only=True)
    while reader.highest() < 3:
        pass
    reader.close()
    receipts._open().execute("DROP TABLE receipts")
    receipts.write([], [Held(at=1.0, service=SERVICE, version=Version(3), reason="a reason")])
    while receipts._failure is None:
        time.sleep(0.01)
    with pytest.raises(ReceiptsUnavailable, match="no such table"):
        receipts.write([], [])
    receipts.close()


def test_a_file_that_is_no_database_and_a_newer_format_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("this is not a database at all, whatever its name says")
    with pytest.raises(ReceiptsUnavailable, match="not a database"):
        SqliteReceipts(tmp_path / "text.sqlite", SERVICE)
    with sqlite3.connect(tmp_path / "newer.sqlite") as connection:
        connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(ReceiptsUnavailable, match="format 9 is not known"):
        SqliteReceipts(tmp_path / "newer.sqlite", SERVICE)
