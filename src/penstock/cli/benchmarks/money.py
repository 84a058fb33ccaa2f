"""A running service with a budget of cents: up the ladder under load, with a kill at every rung, and down again.

What the ledger has counted is compared with what the kernel says at the end of all processes, which is the truth: it is
known only then, and by nobody who was there.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import msgspec
import numpy as np

from penstock.cli.benchmarks.running import House, descendants, free_port
from penstock.client import NDJSON, Client
from penstock.control.budget.limits import Change
from penstock.control.changes import ask, change_id
from penstock.control.ledger import Ledger, ledger_path
from penstock.errors import PenstockError
from penstock.facts import Throttled
from penstock.publish.notices.allowance import RUNGS
from penstock.publish.weights.live_files import live_path, remove_live
from penstock.spec import ALERTS_AT, Budget, Consolidate, Feature, Learn, Spec
from penstock.specfile.writer import dump

HEIGHT_OF: dict[str, int] = {rung: height for height, rung in enumerate(RUNGS)}
LIMIT = 0.05
PER_HOUR = 100.0
"""What the machine costs: so much that a core's work for some ten seconds is some cents."""
RUNG_WAIT_S = 240.0
FLOOR_S = 3.0
"""For which it stays at the limit, predicting."""
FLOOR_MAX_S = 60.0
"""For which predictions may take to spend what is left for them."""
EVENTS = 200
"""Of a request."""
SHARE_OVER = 0.01
IN_FLIGHT_S = 2.0
"""Learning that is under way when its pause is decided: a look, the learner's own look, and a round of steps."""
NAME = "budgeted"


class NotGoverned(PenstockError):
    """The budget was not followed: {reason}"""


class Money(msgspec.Struct, frozen=True, kw_only=True):
    """What happened."""

    limit: float
    walked: list[str]
    """The rungs, in order."""
    kills: int
    """SIGKILLs: of the governor at every rung, and of the learner at every other one."""
    predictions: int
    failed: int
    spent_at_limit_by_learning: float
    overspent_by_learning: float
    """What learning has cost beyond what it had cost when its pause was decided."""
    in_flight: float
    """What it cost in two seconds before."""
    overspent_by_serving: float
    """At the serving floor, where predictions go on."""
    cpu_s: float
    """Of all processes, by the kernel."""
    uncounted_cpu_s: float
    """What the ledger lacks of it: the last moments of the governor and of the supervisor; below zero, it has counted
    something twice."""
    alerts: dict[str, int]
    """How often each arrived."""
    missed_alerts: int
    repeated_alerts: int
    """That arrived again under the same key, since the governor was killed after it had sent them."""
    accepted: int
    learned: int

    @property
    def holds(self) -> bool:
        """Whether everything is as it should be."""
        up = self.walked[: len(self.walked) - 6]
        return (
            self.failed == 0
            and up[-1:] == ["serving_floor"]
            and self.walked[-6:] == list(reversed(RUNGS[:6]))
            and self.overspent_by_learning <= SHARE_OVER * self.limit + self.in_flight
            and -0.1 <= self.uncounted_cpu_s <= 0.02 * self.cpu_s + 1.0
            and self.missed_alerts == 0
            and self.accepted == self.learned
        )


def govern(folder: Path, note: Callable[[str], None]) -> Money:
    """Walk up and down. Raises NotGoverned and DidNotStart."""
    before = _children_cpu_s()
    with tempfile.TemporaryDirectory(prefix="penstock-money-", dir=folder) as home, _webhook() as (url, received):
        place = Path(home)
        (place / "service.yaml").write_text(dump(_spec(url)), encoding="utf-8")
        (place / "budget.yaml").write_text(f"per_hour: {PER_HOUR}\n", encoding="utf-8")
        more = ("--budget", str(place / "budget.yaml"), "--workers", "2")
        house = House(NAME, place, free_port(), more)
        try:
            house.wait_until_ready()
            walk = _Walk(house, note)
            walk.go()
        finally:
            house.stop()
            remove_live(live_path(house.data, NAME))
        return walk.result(_children_cpu_s() - before, received)


class _Walk:
    def __init__(self, house: House, note: Callable[[str], None]) -> None:
        self._house = house
        self._note = note
        self._kills = 0
        self._paused: float | None = None
        """What learning had cost when its pause was decided."""
        self._floor = (0.0, 0.0)
        self._load = _Load(house.address)
        self._status: dict[str, int] = {}

    def go(self) -> None:
        seen = 0
        self._load.start()
        try:
            seen = self._follow(seen, "serving_floor")
            deadline = time.monotonic() + FLOOR_MAX_S
            while sum(self._cost()) < LIMIT and time.monotonic() < deadline:
                time.sleep(0.2)
            time.sleep(FLOOR_S)
            self._floor = self._cost()
            now = time.time()
            until = now + 3600.0
            change = Change(id=change_id(now), at=now, scope=NAME, per_day=1e6 * LIMIT, until=until, by="bench")
            ask(self._house.data, change)
            self._follow(seen, "free")
        finally:
            self._load.stop()
        with Client(self._house.address) as client:
            deadline = time.monotonic() + RUNG_WAIT_S
            while time.monotonic() < deadline:
                self._status = client.status(NAME)["events"]
                if self._status["lag"] == 0:
                    break
                time.sleep(0.2)

    def _follow(self, seen: int, last: str) -> int:
        """Kill at every rung, until this one is reached."""
        deadline = time.monotonic() + RUNG_WAIT_S
        while time.monotonic() < deadline:
            decisions = self._decisions()
            for decision in decisions[seen:]:
                seen += 1
                self._note(f"{decision.before} -> {decision.after}: {decision.reason}")
                if self._paused is None and HEIGHT_OF[decision.after] >= HEIGHT_OF["pause_learning"]:
                    self._paused = self._cost()[0]
                self._kill("_governor")
                if seen % 2:
                    self._kill("_learner")
            if decisions and decisions[-1].after == last:
                return seen
            time.sleep(0.05)
        raise NotGoverned(reason=f"{last} was not reached within {RUNG_WAIT_S:g} s")

    def _kill(self, role: str) -> None:
        """The youngest process of this kind: the learner's fork that works, and not the one that waits for it."""
        for pid in reversed(descendants(self._house.child.pid)):
            with contextlib.suppress(OSError):
                if role.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                    os.kill(pid, signal.SIGKILL)
                    self._kills += 1
                    return

    def _decisions(self) -> list[Throttled]:
        with self._ledger() as ledger:
            return list(reversed(ledger.decisions(NAME)))

    def _ledger(self) -> Ledger:
        return Ledger(ledger_path(self._house.data), read_only=True)

    def _cost(self) -> tuple[float, float]:
        """What learning and serving have cost so far."""
        with self._ledger() as ledger:
            charges = [each for each in ledger.charges() if each.service == NAME]
        learning = sum(each.cost for each in charges if each.role == "learner")
        return learning, sum(each.cost for each in charges if each.role == "server")

    def result(self, cpu_s: float, received: Sequence[str]) -> Money:
        with self._ledger() as ledger:
            counted = sum(each.amount for each in ledger.charges() if each.resource == "cpu")
            told = ledger.told()
        decisions = self._decisions()
        per_s = max(sum(float(one["ahead"] or 0.0) for one in each.inputs) for each in decisions[:5]) / 1.25
        arrivals = Counter(received)
        return Money(
            limit=LIMIT,
            walked=[each.after for each in decisions],
            kills=self._kills,
            predictions=self._load.predictions,
            failed=self._load.failed,
            spent_at_limit_by_learning=self._floor[0],
            overspent_by_learning=self._floor[0] - (self._paused or 0.0),
            in_flight=per_s * IN_FLIGHT_S,
            overspent_by_serving=max(0.0, sum(self._floor) - LIMIT),
            cpu_s=cpu_s,
            uncounted_cpu_s=cpu_s - counted,
            alerts=dict(arrivals),
            missed_alerts=len((told | self._passed()) - set(arrivals)),
            repeated_alerts=sum(arrivals.values()) - len(arrivals),
            accepted=int(self._status.get("accepted", 0)),
            learned=int(self._status.get("learned", -1)),
        )

    def _passed(self) -> set[str]:
        """The alerts that there should be, by what was spent."""
        keys = {str(each["key"]) for each in self._decisions()[0].inputs}
        return {
            f"{NAME}/{key}/{share:.6g}/{LIMIT:.6g}/actual"
            for key in keys
            for share in ALERTS_AT
            if sum(self._floor) >= share * LIMIT
        }


class _Load:
    """Teaches as fast as it is acknowledged and asks all the time."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=each) for each in (self._teach, self._ask)]
        self.predictions = self.failed = 0

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()

    def _teach(self) -> None:
        rng = np.random.default_rng(0)
        with Client(self._address) as client:
            while not self._enough.wait(0.02):
                rows = rng.normal(size=(EVENTS, 4))
                lines = (
                    {"features": dict(zip("abcd", row, strict=True)), "label": int(row[0] > row[1])}
                    for row in rows.tolist()
                )
                with contextlib.suppress(PenstockError):
                    client.examples(NAME, b"\n".join(json.dumps(line).encode() for line in lines), media=NDJSON)

    def _ask(self) -> None:
        with Client(self._address) as client:
            while not self._enough.wait(0.01):
                self.predictions += 1
                try:
                    client.predict(NAME, dict.fromkeys("abcd", 0.5))
                except PenstockError:
                    self.failed += 1


@contextlib.contextmanager
def _webhook() -> Iterator[tuple[str, list[str]]]:
    """An address that takes alerts, and their keys as they arrive."""
    received: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            received.append(self.headers["Idempotency-Key"])
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing is said of requests."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", received
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _spec(url: str) -> Spec:
    return Spec(
        name=NAME,
        task="binary",
        features={name: Feature(type="number") for name in "abcd"},
        learn=Learn(step_max=256, tree_window=0),
        consolidate=Consolidate(when="never"),
        budget=Budget(per_day=LIMIT, alert_webhook=url),
    )


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def words(found: Money) -> list[str]:
    """What happened, in sentences."""
    return [
        f"A budget of {found.limit:g} was walked up and down under load: {', '.join(found.walked)}.",
        f"{found.failed:,} of {found.predictions:,} predictions failed, with {found.kills} kills.",
        f"Learning cost {found.overspent_by_learning:.2g} after its pause was decided (1 % of the limit and what was "
        f"in flight are {SHARE_OVER * found.limit + found.in_flight:.2g}); serving went on for "
        f"{found.overspent_by_serving:.2g} beyond the limit.",
        f"The kernel counted {found.cpu_s:.2f} s of processor time; the ledger lacks {found.uncounted_cpu_s:.2f} s.",
        f"{len(found.alerts)} alerts arrived, {found.missed_alerts} were missed, {found.repeated_alerts} came again "
        "under the same key.",
        f"{found.learned:,} of {found.accepted:,} accepted events were learned in the end.",
    ]
