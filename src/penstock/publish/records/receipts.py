"""Receipts and facts in SQLite: a projection of the step journal that people and servers can ask.

The learner hands them over in memory; a thread writes them every fifth of a second, so that no step waits for SQLite.
What a crash loses is entered again from the step journal, which is the truth; entering twice is the same as once.

Versions come a hundred times a second, so receipts are thinned by age: two neighbouring updates become one receipt as
long as together they span at most a hundredth of their age in versions. The newest 10,000 stay single, a million
versions keep about 10,000 + 100 ln(1,000,000 / 10,000) = 10,461 rows, and every event stays covered. Thinning happens
where the version number passes a multiple of 1,000 and nowhere else, so that the rows are a function of the receipts
written.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec

from penstock import facts as fact_types
from penstock.errors import ReceiptsUnavailable, UnknownVersion
from penstock.events import Offset, Partition, Range, Version
from penstock.facts import Fact
from penstock.gate.interface import Interval
from penstock.learn.measured import nearest
from penstock.learn.steps import Reached, nothing
from penstock.publish.interface import Receipt
from penstock.publish.records.account import bounded_mean

FORMAT = 1
FLUSH_EVERY_S = 0.2
SINGLE_VERSIONS = 10_000
"""The newest so many versions are never merged."""
AGE_PER_SPAN = 100
"""A span is at most this fraction of its age in versions."""
THIN_EVERY = 1_000
INTEGER_MAX = 2**63 - 1
"""SQLite's largest; a number beyond it cannot even be asked for."""
FACTS_KEPT = 10_000
"""Facts of one kind that are kept; the oldest go first."""

_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS receipts (version INTEGER PRIMARY KEY, parent INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS facts (
  at REAL NOT NULL, kind TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (at, kind, body)
) WITHOUT ROWID;
PRAGMA user_version = {FORMAT};
"""
_encode = msgspec.msgpack.Encoder().encode
_decode_receipt = msgspec.msgpack.Decoder(Receipt).decode
_decode_fact = msgspec.msgpack.Decoder(
    fact_types.Published
    | fact_types.Held
    | fact_types.RolledBack
    | fact_types.Ordered
    | fact_types.OrderRefused
    | fact_types.SetAside
    | fact_types.TakenOut
    | fact_types.Released
    | fact_types.Dropped
    | fact_types.Erased
    | fact_types.Corrected
    | fact_types.Restarted
    | fact_types.TailCut
    | fact_types.CheckpointUnreadable
    | fact_types.Drifted
    | fact_types.InputsDrifted
    | fact_types.PredictionsDrifted
    | fact_types.Consolidated
    | fact_types.ShadowStarted
    | fact_types.Widened
    | fact_types.Promoted
    | fact_types.GivenUp
    | fact_types.RaceEnded
).decode


class SqliteReceipts:
    """One process writes (the learner), any number reads with ``read_only``."""

    def __init__(
        self,
        file: Path,
        service: str,
        *,
        read_only: bool = False,
        reached: Reached = nothing,
        flush_every_s: float = FLUSH_EVERY_S,
    ) -> None:
        self.file = file
        self._flush_every_s = flush_every_s
        self._service = service
        self._read_only = read_only
        self._reached = reached
        self._connection: sqlite3.Connection | None = None
        self._using = threading.Lock()
        self._waiting: tuple[list[Receipt], list[Fact]] = ([], [])
        self._handing_over = threading.Lock()
        self._closing = threading.Event()
        self._thread: threading.Thread | None = None
        self._failure: ReceiptsUnavailable | None = None
        if not read_only:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._open()

    def write(self, receipts: Sequence[Receipt], facts: Sequence[Fact]) -> None:
        """Hand them over, receipts in the order of versions. Raises ReceiptsUnavailable when an earlier flush
        failed."""
        if self._failure is not None:
            raise self._failure
        with self._handing_over:
            self._waiting[0].extend(receipts)
            self._waiting[1].extend(facts)
        if self._thread is None:
            self._thread = threading.Thread(target=self._flush_now_and_then, name="receipts", daemon=True)
            self._thread.start()

    def flush(self, durably: bool = False) -> None:
        """Write what waits; ``durably`` so that not even a power failure takes it back."""
        with self._using:
            with self._handing_over:
                receipts, facts = self._waiting
                self._waiting = ([], [])
            try:
                connection = self._open()
                with connection:
                    connection.execute("BEGIN IMMEDIATE")
                    self._enter(connection, receipts, facts)
                    self._reached("receipts.entered")
                if durably:
                    connection.execute("PRAGMA wal_checkpoint(FULL)")
            except sqlite3.Error as error:
                self._failure = ReceiptsUnavailable(file=self.file, reason=str(error))
                raise self._failure from error
        self._reached("receipts.flushed")

    def highest(self) -> Version:
        """The newest version that a receipt is written for; 0 when there is none."""
        rows = self._ask("SELECT max(version) FROM receipts", ())
        return Version(rows[0][0] or 0 if rows else 0)

    def receipt(self, version: Version) -> Receipt:
        query = "SELECT body FROM receipts WHERE version >= ? AND parent < ? ORDER BY version LIMIT 1"
        rows = self._ask(query, (version, version)) if version <= INTEGER_MAX else []
        if not rows:
            raise UnknownVersion(service=self._service, version=version, newest=self.highest())
        return _decode_receipt(rows[0][0])

    def newest(self, limit: int, before: Version | None = None) -> list[Receipt]:
        rows = self._ask(
            "SELECT body FROM receipts WHERE version < ? ORDER BY version DESC LIMIT ?",
            (before if before is not None else 1 << 62, limit),
        )
        return [_decode_receipt(body) for (body,) in rows]

    def facts(self, limit: int, kinds: Sequence[str] = ()) -> list[Fact]:
        chosen = f"WHERE kind IN ({', '.join('?' * len(kinds))})" if kinds else ""
        rows = self._ask(f"SELECT body FROM facts {chosen} ORDER BY at DESC LIMIT ?", (*kinds, limit))
        return [_decode_fact(body) for (body,) in rows]

    def check(self) -> list[str]:
        """What is wrong with the file, in words: with SQLite's own pages, and with what stands in the rows.

        Raises ReceiptsUnavailable where it cannot be read at all."""
        faults = [str(row[0]) for row in self._ask("PRAGMA integrity_check", ()) if row[0] != "ok"]
        if faults:
            return faults
        try:
            receipts = self.newest(1 << 62)
            self.facts(1 << 62)
        except msgspec.MsgspecError as error:
            return [f"a row cannot be decoded: {error}"]
        for newer, older in pairwise(receipts):
            # What answers a share of the traffic has no successor: what is served follows what was served.
            if newer.parent != (older.parent if older.cause == "canary" else older.version):
                faults.append(
                    f"version {newer.version} follows {newer.parent}, and the receipt before is {older.version}"
                )
        return faults

    def close(self) -> None:
        self._closing.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if not self._read_only and self._failure is None and self._connection is not None:
            self.flush()
        with self._using:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _flush_now_and_then(self) -> None:
        while not self._closing.wait(self._flush_every_s):
            if self._waiting[0] or self._waiting[1]:
                try:
                    self.flush()
                except ReceiptsUnavailable:
                    # Kept in self._failure: the next write raises it in the learner's own thread.
                    return

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            target = f"file:{self.file}?mode=ro" if self._read_only else f"file:{self.file}"
            try:
                connection = sqlite3.connect(
                    target, uri=True, timeout=10.0, isolation_level=None, check_same_thread=False
                )
                (found,) = connection.execute("PRAGMA user_version").fetchone()
                if found not in (0, FORMAT):
                    connection.close()
                    raise ReceiptsUnavailable(file=self.file, reason=f"format {found} is not known, only {FORMAT}")
                if not self._read_only:
                    connection.execute("PRAGMA journal_mode = WAL")
                    connection.execute("PRAGMA synchronous = NORMAL")
                    connection.executescript(_SCHEMA)
            except sqlite3.Error as error:
                raise ReceiptsUnavailable(file=self.file, reason=str(error)) from error
            self._connection = connection
        return self._connection

    def _ask(self, query: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        if self._read_only and not self.file.exists():
            return []
        with self._using:
            try:
                return self._open().execute(query, values).fetchall()
            except sqlite3.OperationalError as error:
                if "no such table" in str(error):
                    return []
                raise ReceiptsUnavailable(file=self.file, reason=str(error)) from error
            except sqlite3.Error as error:
                raise ReceiptsUnavailable(file=self.file, reason=str(error)) from error

    def _enter(self, connection: sqlite3.Connection, receipts: Iterable[Receipt], facts: Iterable[Fact]) -> None:
        (highest,) = connection.execute("SELECT coalesce(max(version), 0) FROM receipts").fetchone()
        for receipt in receipts:
            # Receipts come in the order of versions, so whatever is not above the highest is already covered.
            if receipt.version > highest:
                highest = receipt.version
                row = (receipt.version, receipt.parent, _encode(receipt))
                connection.execute("INSERT INTO receipts VALUES (?, ?, ?)", row)
                if receipt.version % THIN_EVERY == 0:
                    _thin_receipts(connection, receipt.version)
        rows = [(fact.at, type(fact).__struct_config__.tag, _encode(fact)) for fact in facts]
        connection.executemany("INSERT OR IGNORE INTO facts VALUES (?, ?, ?)", rows)
        for kind in {kind for _, kind, _ in rows}:
            connection.execute(
                "DELETE FROM facts WHERE kind = ?1 AND at < "
                "(SELECT at FROM facts WHERE kind = ?1 ORDER BY at DESC LIMIT 1 OFFSET ?2)",
                (kind, FACTS_KEPT - 1),
            )


def _thin_receipts(connection: sqlite3.Connection, newest: Version) -> None:
    """Merge neighbouring updates that are old enough, from the oldest on."""
    rows = connection.execute(
        "SELECT body FROM receipts WHERE version <= ? ORDER BY version", (newest - SINGLE_VERSIONS,)
    ).fetchall()
    span: Receipt | None = None
    gone: list[tuple[int]] = []
    changed: dict[int, Receipt] = {}
    for (body,) in rows:
        receipt = _decode_receipt(body)
        if receipt.cause == "canary":
            # So old, it says nothing that the receipt of the version after it and the facts do not.
            gone.append((receipt.version,))
            continue
        if span is not None and _may_merge(span, receipt, newest):
            gone.append((span.version,))
            changed.pop(span.version, None)
            span = merge(span, receipt)
            changed[span.version] = span
        else:
            span = receipt
    connection.executemany("DELETE FROM receipts WHERE version = ?", gone)
    connection.executemany(
        "INSERT OR REPLACE INTO receipts VALUES (?, ?, ?)", [(v, r.parent, _encode(r)) for v, r in changed.items()]
    )


def _may_merge(older: Receipt, newer: Receipt, newest: Version) -> bool:
    """Starts, rollbacks, promotions and versions with which a race has ended keep their own receipts, and materialised
    versions ten times as long as others one that ends with them. A correction is an update among others by then."""
    age_per_version = AGE_PER_SPAN * (10 if older.weights else 1)
    return (
        older.cause in ("update", "correction")
        and newer.cause in ("update", "correction")
        and older.hand is newer.hand is None
        and older.apprentice is newer.apprentice is None
        and newer.parent == older.version
        and (newer.version - older.parent) * age_per_version <= newest - older.parent
    )


def merge(older: Receipt, newer: Receipt) -> Receipt:
    """One receipt for the versions after ``older.parent`` up to ``newer.version``; its ranges are one a partition."""
    events = older.events + newer.events
    ends: dict[Partition, tuple[Offset, Offset]] = {}
    for partition, start, stop in (*older.ranges, *newer.ranges):
        ends[partition] = (ends.get(partition, (start, stop))[0], stop)
    ranges: tuple[Range, ...] = tuple((partition, *ends[partition]) for partition in sorted(ends))
    return Receipt(
        version=newer.version,
        parent=older.parent,
        cause="update",
        ranges=ranges,
        events=events,
        loss=_merged_loss(older.loss, newer.loss),
        parent_loss=_merged_loss(older.parent_loss, newer.parent_loss),
        gain=newer.gain,
        verdict=newer.verdict,
        set_aside=dict(Counter(older.set_aside) + Counter(newer.set_aside)),
        held=older.held + newer.held,
        weights=newer.weights,
        time=newer.time,
        cpu_s=older.cpu_s + newer.cpu_s,
        base=newer.base,
        parent_base=older.parent_base,
        environment=newer.environment,
        guards=nearest((*older.guards, *newer.guards)),
        forgotten=newer.forgotten or older.forgotten,
        forgetting_max=newer.forgetting_max if newer.forgotten is not None else older.forgetting_max,
    )


def _merged_loss(older: Interval | None, newer: Interval | None) -> Interval | None:
    if older is None or newer is None:
        return older or newer
    return bounded_mean(older.mean * older.events + newer.mean * newer.events, older.events + newer.events)
