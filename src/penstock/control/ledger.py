"""The ledger: what was spent and why it was acted upon, in SQLite, so that it survives whatever crashes.

The counters up to which everything was charged stand in the same transaction as the charges. So after a crash either
both are there, or neither, and the next sample makes up for it: nothing is counted twice, and nothing is left out.
Decisions, changes and alerts are only ever added; an alert is there before it is sent.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self, TypeVar

import msgspec

from penstock.control.budget.alerts import Alert
from penstock.control.budget.limits import PORTFOLIO, Change, Limits
from penstock.control.meter.account import MACHINE, Charge, Metered, Pace
from penstock.control.meter.forecast import PeriodName, forecast, period_of
from penstock.control.meter.reading import Restatement
from penstock.errors import LedgerUnavailable
from penstock.facts import Throttled
from penstock.publish.notices.allowance import Limit

FORMAT = 1
WAIT_S = 10.0
COUNTS = ("predictions", "learned")
"""Resources that cost nothing and are counted all the same."""
_SCHEMA = f"""
CREATE TABLE IF NOT EXISTS metered (one INTEGER PRIMARY KEY CHECK (one = 1), body BLOB NOT NULL, crc INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS charges (
  day TEXT NOT NULL, service TEXT NOT NULL, role TEXT NOT NULL, resource TEXT NOT NULL,
  amount REAL NOT NULL, cost REAL NOT NULL, PRIMARY KEY (day, service, role, resource)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS decisions (number INTEGER PRIMARY KEY, scope TEXT NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS changes (id TEXT PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS alerts (id TEXT PRIMARY KEY, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS deliveries (
  alert TEXT NOT NULL, channel TEXT NOT NULL, sent REAL, PRIMARY KEY (alert, channel)
) WITHOUT ROWID;
PRAGMA user_version = {FORMAT};
"""
_encode = msgspec.msgpack.Encoder().encode
T = TypeVar("T", bound=msgspec.Struct)


class Ledger:
    """One process writes, any number reads with ``read_only``."""

    def __init__(self, file: Path, *, read_only: bool = False) -> None:
        """Raises LedgerUnavailable where it cannot be opened, or is damaged. To a reader one that nobody has begun is
        empty: who writes it starts after those who serve."""
        self._file = file
        with self._explained():
            self._base = self._read_only() if read_only else self._written()
            version = _format(self._base)
            if version != FORMAT:
                raise LedgerUnavailable(file=file, reason=f"format {version} is not known, only {FORMAT}")

    def _written(self) -> sqlite3.Connection:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        base = sqlite3.connect(self._file, timeout=WAIT_S)
        base.execute("PRAGMA journal_mode = WAL")
        base.execute("PRAGMA synchronous = FULL")
        base.executescript(_SCHEMA)
        return base

    def _read_only(self) -> sqlite3.Connection:
        if self._file.exists():
            base = sqlite3.connect(f"{self._file.absolute().as_uri()}?mode=ro", uri=True, timeout=WAIT_S)
            if _format(base) != 0:
                return base
            base.close()
        empty = sqlite3.connect(":memory:")
        empty.executescript(_SCHEMA)
        return empty

    def metered(self) -> Metered:
        """What was charged so far, as counters."""
        with self._explained():
            row = self._base.execute("SELECT body, crc FROM metered").fetchone()
        if row is None:
            return Metered()
        if zlib.crc32(row[0]) != row[1]:
            raise LedgerUnavailable(file=self._file, reason="the counters are not what was written")
        return self._read(row[0], Metered)

    def enter(self, metered: Metered, charges: Sequence[Charge]) -> None:
        """Charge these, and remember that they were charged: both or neither."""
        body = _encode(metered)
        rows = [(c.day, c.service, c.role, c.resource, c.amount, c.cost) for c in charges]
        with self._explained(), self._base:
            self._base.execute("INSERT OR REPLACE INTO metered VALUES (1, ?, ?)", (body, zlib.crc32(body)))
            self._base.executemany(
                "INSERT INTO charges VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE "
                "SET amount = amount + excluded.amount, cost = cost + excluded.cost",
                rows,
            )

    def restate(self, metered: Metered, restated: Restatement) -> None:
        """Put what another system says of a day in the place of what these services and the house were charged for on
        it, and remember that it was said: both or neither."""
        body, day = _encode(metered), restated.day
        rows = [(day, c.service, c.role, c.resource, c.amount, c.cost) for c in restated.charges]
        with self._explained(), self._base:
            self._base.execute("INSERT OR REPLACE INTO metered VALUES (1, ?, ?)", (body, zlib.crc32(body)))
            self._base.executemany(
                f"DELETE FROM charges WHERE day = ? AND service = ? AND resource NOT IN {COUNTS}",
                [(day, service) for service in (*restated.services, "")],
            )
            self._base.executemany("INSERT INTO charges VALUES (?, ?, ?, ?, ?, ?)", rows)
            # The whole of it, as of a machine of our own: what somebody had, and what nobody had.
            self._base.execute(
                "INSERT INTO charges SELECT ?1, '', '', ?2, 0.0, ?3 + total(cost) FROM charges "
                "WHERE day = ?1 AND resource NOT IN (?2, 'storage')",
                (day, MACHINE, restated.idle),
            )

    def spent(self, scope: str | None, period: str) -> float:
        """What a service has cost on the day or in the month of this name; None for everybody, and the house."""
        begins = f"{period}%"
        where = "day LIKE ? AND resource != ?" + (" AND service = ?" if scope is not None else "")
        given = (begins, MACHINE) + (() if scope is None else (scope,))
        with self._explained():
            (cost,) = self._base.execute(f"SELECT total(cost) FROM charges WHERE {where}", given).fetchone()
        return float(cost)

    def limits(self, scope: str, limits: Limits, pace: Pace, now: float) -> tuple[Limit, Limit]:
        """How the day and the month of this moment stand: what may be spent, is, and will be at this pace."""

        def seen(name: PeriodName, limit: float | None) -> Limit:
            period = period_of(name, now)
            spent = self.spent(None if scope == PORTFOLIO else scope, period.key)
            return Limit(period=period.key, limit=limit, spent=spent, forecast=forecast(spent, period, pace))

        return seen("day", limits.per_day), seen("month", limits.per_month)

    def per_second(self, service: str, role: str) -> dict[str, float]:
        """Of each day, all that what runs in this role cost, over the processor time that it took."""
        with self._explained():
            rows = self._base.execute(
                "SELECT day, total(cost), total(CASE WHEN resource = 'cpu' THEN amount END) FROM charges "
                "WHERE service = ? AND role = ? GROUP BY day",
                (service, role),
            ).fetchall()
        return {day: cost / cpu_s for day, cost, cpu_s in rows if cpu_s > 0.0}

    def charges(self, period: str = "") -> list[Charge]:
        """All of a day, of a month, or of all time."""
        with self._explained():
            rows = self._base.execute("SELECT * FROM charges WHERE day LIKE ?", (f"{period}%",)).fetchall()
        return [
            Charge(day=day, service=service, role=role, resource=resource, amount=amount, cost=cost)
            for day, service, role, resource, amount, cost in rows
        ]

    def decide(self, decision: Throttled) -> None:
        """Write a decision down, before anything is done for it."""
        with self._explained(), self._base:
            self._base.execute(
                "INSERT INTO decisions (scope, body) VALUES (?, ?)", (decision.service, _encode(decision))
            )

    def decisions(self, scope: str | None = None, newest: int = 1_000_000) -> list[Throttled]:
        """The newest so many, the newest first."""
        where = "" if scope is None else "WHERE scope = ?"
        given = (() if scope is None else (scope,)) + (newest,)
        with self._explained():
            rows = self._base.execute(f"SELECT body FROM decisions {where} ORDER BY number DESC LIMIT ?", given)
            return [self._read(body, Throttled) for (body,) in rows]

    def change(self, change: Change) -> None:
        """Write down that somebody changed a budget; the same change twice is one."""
        with self._explained(), self._base:
            self._base.execute("INSERT OR IGNORE INTO changes VALUES (?, ?)", (change.id, _encode(change)))

    def changes(self) -> list[Change]:
        """In the order in which they came; a clock that was set back does not put one before those that it follows."""
        with self._explained():
            rows = self._base.execute("SELECT body FROM changes ORDER BY rowid").fetchall()
        return [self._read(body, Change) for (body,) in rows]

    def alert(self, alerts: Iterable[Alert], channels: Sequence[str]) -> None:
        """Owe these alerts to these channels. One that was made before is not made again."""
        with self._explained(), self._base:
            for alert in alerts:
                made = self._base.execute("INSERT OR IGNORE INTO alerts VALUES (?, ?)", (alert.id, _encode(alert)))
                if made.rowcount:
                    owed = [(alert.id, channel) for channel in channels]
                    self._base.executemany("INSERT INTO deliveries VALUES (?, ?, NULL)", owed)

    def told(self) -> set[str]:
        """The ids of all alerts that were made."""
        with self._explained():
            return {alert_id for (alert_id,) in self._base.execute("SELECT id FROM alerts")}

    def alerts(self) -> list[Alert]:
        with self._explained():
            rows = self._base.execute("SELECT body FROM alerts ORDER BY rowid").fetchall()
        return [self._read(body, Alert) for (body,) in rows]

    def owed(self) -> list[tuple[Alert, str]]:
        """What is still to be sent, and by which channel."""
        with self._explained():
            rows = self._base.execute(
                "SELECT body, channel FROM deliveries JOIN alerts ON alert = id "
                "WHERE sent IS NULL ORDER BY alerts.rowid"
            ).fetchall()
        return [(self._read(body, Alert), channel) for body, channel in rows]

    def sent(self, alert_id: str, channel: str, at: float) -> None:
        """It was sent, and is not owed any more."""
        with self._explained(), self._base:
            self._base.execute(
                "UPDATE deliveries SET sent = ? WHERE alert = ? AND channel = ?", (at, alert_id, channel)
            )

    def close(self) -> None:
        self._base.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, body: bytes, kind: type[T]) -> T:
        try:
            return msgspec.msgpack.decode(body, type=kind)
        except msgspec.MsgspecError as error:
            raise LedgerUnavailable(file=self._file, reason=str(error)) from error

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise LedgerUnavailable(file=self._file, reason=str(error)) from error


def _format(base: sqlite3.Connection) -> int:
    """0 before anything was written."""
    (version,) = base.execute("PRAGMA user_version").fetchone()
    return int(version)


def pace_of(scope: str, paces: Mapping[str, Pace]) -> Pace:
    """A service's, or that of all together, known for as long as the one that is known longest."""
    if scope != PORTFOLIO:
        return paces.get(scope, Pace())
    seconds = max((pace.seconds for pace in paces.values()), default=0.0)
    return Pace(cost=sum(pace.per_s for pace in paces.values()) * seconds, seconds=seconds)


def ledger_path(data: Path) -> Path:
    """Where the ledger of a data folder stands."""
    return data / ".money" / "ledger.sqlite"
