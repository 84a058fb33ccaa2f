"""The governor is killed at every action of a walk up and down the ladder: nothing is lost or counted twice."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.control.budget.alerts import Alert
from penstock.control.budget.limits import PORTFOLIO, Change
from penstock.control.changes import ask, waiting
from penstock.control.courier import Courier
from penstock.control.governor import Governor
from penstock.control.ledger import Ledger, ledger_path
from penstock.control.local_actuator import LocalActuator, wanted
from penstock.control.meter.rates import Capacity, Rates
from penstock.control.meter.sample import Process
from penstock.control.meter_reader import MeterReader
from penstock.control.portfolio import House, Meters, OpenCost, Portfolio
from penstock.learn.steps import Reached, nothing
from penstock.publish.notices.allowance import RUNGS, AllowanceFile
from penstock.spec import Budget, Feature, Spec
from penstock.testing.faults import FaultPoint, KillAt, Recorder, run_in_child
from penstock.testing.http_stub import answering, body, say
from penstock.testing.memory_meter import MemoryMeter
from penstock.testing.memory_publish import MemoryLiveWeights

START = datetime.datetime(2026, 7, 31, 9, tzinfo=datetime.UTC).timestamp()
SPEC = Spec(
    name="a",
    task="binary",
    features={"x": Feature(type="number")},
    budget=Budget(per_day=1.0, alert_file="alerts.jsonl", alert_webhook="http://127.0.0.1:1/"),
)
HOUSE = House(
    portfolio=Portfolio(per_day=50.0, at_limit="stop"),
    rates=Rates(
        currency="USD",
        machine="",
        source="a core second costs one",
        core_h=3600.0,
        gib_h=0.0,
        gpu_h=0.0,
        storage_gib_h=0.0,
        capacity=Capacity(cores=2, memory_gib=8),
    ),
)
SPENT = (0.1, 0.55, 0.75, 0.84, 0.91, 0.955, 1.02, *(1.02 + 0.001 * i for i in range(1, 9)))
RAISED = 7
"""The look before which somebody allows more."""


class Eyes:
    """Sees a learner that has used as much as the walk says."""

    def __init__(self) -> None:
        self.cpu_s = 0.0

    def look(self, now: float) -> tuple[str, tuple[Process, ...]]:
        up = Process(key="up", parent="", service="", role="supervisor", started=START, cpu_s=0.0)
        learner = Process(key="l", parent="up", service="a", role="learner", started=START, cpu_s=self.cpu_s)
        return "up", (up, learner)


def watching(
    data: Path,
    ledger: Ledger,
    eyes: Eyes,
    now: Callable[[], float],
    elapsed: Callable[[], float],
    reached: Reached = nothing,
) -> Governor:
    """Who holds one service in this folder to its money, by what these eyes see."""
    (data / "a").mkdir(exist_ok=True)
    (data / "run").mkdir(exist_ok=True)
    return Governor(
        [SPEC],
        data,
        HOUSE,
        sensor=eyes,
        live={"a": MemoryLiveWeights()},
        actuator=LocalActuator(data),
        ledger=ledger,
        now=now,
        elapsed=elapsed,
        reached=reached,
    )


def walk(data: Path, reached: Reached = nothing) -> None:
    """Walk, from wherever an earlier walk on this folder has ended."""
    eyes, at = Eyes(), [START]
    with Ledger(ledger_path(data)) as ledger:
        begun = max(0, round((ledger.metered().at - START) / 10.0) - 1)
        governor = watching(data, ledger, eyes, lambda: at[0], lambda: at[0] - START, reached)
        for look in range(begun, len(SPENT)):
            at[0], eyes.cpu_s = START + 10.0 * (look + 1), SPENT[look]
            if look == RAISED:
                ask(data, Change(id="0-1", at=at[0], scope="a", per_day=100.0, until=START + 1e6, by="me"))
            governor.look()


def found(data: Path) -> dict[str, Any]:
    with Ledger(ledger_path(data), read_only=True) as ledger:
        decisions = [(one.at, one.service, one.before, one.after) for one in reversed(ledger.decisions())]
        return {
            # What the folder takes on the disk is real here, and depends on when it is looked at.
            "charges": [each for each in ledger.charges() if each.resource != "storage"],
            "spent": ledger.spent("a", "2026-07-31"),
            "decisions": decisions,
            "alerts": [alert.id for alert in ledger.alerts()],
            "owed": [(alert.id, channel) for alert, channel in ledger.owed()],
            "changes": ledger.changes(),
            "waiting": waiting(data),
            "allowance": AllowanceFile(data / "a")(),
            "workers": wanted(data).workers,
        }


MIDNIGHT = datetime.datetime(2026, 8, 1, tzinfo=datetime.UTC).timestamp()
JULY, AUGUST = "2026-07-31", "2026-08-01"
SAID: tuple[tuple[float, dict[str, float] | None], ...] = (
    *((at, {JULY: cost}) for at, cost in ((-90, 0.1), (-80, 0.55), (-70, 0.85), (-60, 0.97), (-50, 0.97))),
    *((at, {JULY: 1.1, AUGUST: 0.05}) for at in range(10, 110, 10)),
    *((at, None) for at in (11_000, 11_010)),
    *((at, {JULY: 1.05, AUGUST: 0.3}) for at in range(11_020, 11_100, 10)),
)
"""Seconds after midnight, and what another system says then of each day; None where it is silent."""


def walk_by_reading(data: Path, reached: Reached = nothing) -> None:
    """The same where another system says what was spent, restates a day, and is silent for three hours."""
    at, meter = [0.0], MemoryMeter()
    (data / "a").mkdir(exist_ok=True)
    (data / "run").mkdir(exist_ok=True)
    house = msgspec.structs.replace(
        HOUSE, portfolio=Portfolio(per_month=50.0, meter=Meters(opencost=OpenCost(url="http://nobody/allocation")))
    )
    with Ledger(ledger_path(data)) as ledger:
        reader = MeterReader(lambda: meter, 60.0, ledger.metered().outside, now=lambda: at[0])
        governor = Governor(
            [SPEC],
            data,
            house,
            sensor=Eyes(),
            live={"a": MemoryLiveWeights()},
            actuator=LocalActuator(data),
            ledger=ledger,
            now=lambda: at[0],
            elapsed=lambda: at[0] - START,
            heard=reader.take,
            reached=reached,
        )
        begun = ledger.metered().at
        for after, costs in SAID:
            at[0] = meter.at = MIDNIGHT + after
            if at[0] < begun:
                continue
            meter.fault = "it sleeps" if costs is None else ""
            meter.costs = {day: {"a": cost, "others": 9.0} for day, cost in (costs or {}).items()}
            reader.read()
            governor.look()


def test_a_clock_that_is_set_back_holds_up_neither_the_meter_nor_the_way_down(tmp_path: Path) -> None:
    eyes, at, elapsed = Eyes(), [START], [10.0]
    with Ledger(ledger_path(tmp_path)) as ledger:
        governor = watching(tmp_path, ledger, eyes, lambda: at[0], lambda: elapsed[0])

        def look(cpu_s: float, jump_s: float = 0.0) -> str:
            eyes.cpu_s = cpu_s
            at[0], elapsed[0] = at[0] + 10.0 + jump_s, elapsed[0] + 10.0
            governor.look()
            return AllowanceFile(tmp_path / "a")().rung

        assert look(0.1) == "free"
        assert look(1.001) == "serving_floor"
        # An hour back: what is spent goes on being counted at once.
        assert look(1.01, -3600.0) == "serving_floor"
        assert ledger.spent("a", "2026-07-31") == pytest.approx(1.01)
        # What somebody allows now follows what was said an hour later by the clock that was wrong.
        ask(tmp_path, Change(id="2", at=at[0] + 3600.0, scope="a", per_day=1.0, by="me"))
        look(1.01)
        ask(tmp_path, Change(id="1", at=at[0], scope="a", per_day=100.0, by="me"))
        rungs = [look(1.01) for _ in range(7)]
    assert rungs[-1] == "free"
    assert rungs[:2] == ["pause_learning", "learn_less"]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where syncing takes no time: it is processes that are killed here, and no machine."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


def ends_alike(
    folder: Path, walking: Callable[..., None], points: Sequence[FaultPoint], expected: dict[str, Any]
) -> None:
    """Killed at each of these points and walked again, all that is found is what it is without a kill."""
    for number, point in enumerate(points):
        data = folder / str(number)
        data.mkdir()
        assert not run_in_child(lambda data=data, point=point: walking(data, KillAt(point)))  # type: ignore[misc]
        walking(data)
        assert msgspec.to_builtins(found(data)) == msgspec.to_builtins(expected), str(point)


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.long)])
def test_killed_between_readings_nothing_is_counted_twice_and_nobody_is_told_twice(folder: Path, every: int) -> None:
    """Every seventh action of the walk; all of them in the long form."""
    recorder = Recorder()
    (folder / "whole").mkdir()
    walk_by_reading(folder / "whole", recorder)
    expected = found(folder / "whole")
    with Ledger(ledger_path(folder / "whole"), read_only=True) as ledger:
        assert (ledger.spent("a", JULY), ledger.spent("a", AUGUST)) == (pytest.approx(1.05), pytest.approx(0.3))
        assert ledger.spent(None, "2026") == pytest.approx(1.35), "what others cost is none of ours"
        newest = {
            scope: {each.after: each.reason for each in ledger.decisions(scope)[::-1]} for scope in ("a", PORTFOLIO)
        }
    assert expected["allowance"].rung == "slow_consolidation", "as long as the forecast is beyond the limit"
    assert "0.05 of 1 for the day 2026-08-01 are spent and" in newest["a"]["serving_floor"], (
        "and more by the speed before"
    )
    unknown = "nobody knows what was spent since 2026-08-01 00:01 UTC: a test does not say what was spent: it sleeps"
    assert newest[PORTFOLIO]["pause_learning"] == unknown
    blind = [each for each in expected["alerts"] if each.endswith("/blind")]
    assert len(blind) == 2, "one of the service, one of all together"
    assert len(set(expected["alerts"])) == len(expected["alerts"])
    assert "money.restated" in {point.action for point in recorder.points}
    ends_alike(folder, walk_by_reading, recorder.points[::every], expected)


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.long)])
def test_killed_at_any_action_it_ends_as_if_it_had_not_been(folder: Path, every: int) -> None:
    """Every fourth action of the walk, of which there are six kinds in each look; all of them in the long form."""
    recorder = Recorder()
    (folder / "whole").mkdir()
    walk(folder / "whole", recorder)
    expected = found(folder / "whole")
    assert expected["spent"] == pytest.approx(SPENT[-1])
    walked = [after for _, service, _, after in expected["decisions"] if service == "a"]
    assert walked == [*RUNGS[1:7], *reversed(RUNGS[:6])]
    assert len(expected["alerts"]) == len(set(expected["alerts"])) == 3
    assert len(expected["owed"]) == 6
    assert START < expected["allowance"].learn_until - 10.0 * len(SPENT) <= START + 60.0
    assert {point.action for point in recorder.points} == {
        *("money.seen", "money.charged", "money.changed", "money.decided", "money.alerted", "money.allowed")
    }
    ends_alike(folder, walk, recorder.points[::every], expected)


@pytest.fixture
def posted() -> Iterator[tuple[str, list[str]]]:
    """The address of a webhook, and the keys that it was sent."""
    keys: list[str] = []

    def take(handler: BaseHTTPRequestHandler) -> None:
        body(handler)
        keys.append(handler.headers["Idempotency-Key"])
        say(handler, 204)

    with answering(take) as address:
        yield address, keys


@pytest.mark.parametrize("kill", range(1, 7))
def test_a_courier_killed_before_it_ticks_off_misses_nobody_and_a_file_has_each_alert_once(
    folder: Path, posted: tuple[str, list[str]], kill: int
) -> None:
    """Killed once behind each delivery: what was sent is not known to be, and only that is sent again."""
    keys = ["a/2026-07-31/0.5/1/actual", "a/2026-07-31/0.8/1/actual"]
    alerts = [
        Alert(
            id=key, at=1.0, scope="a", period="2026-07-31", basis="actual", percent=50.0, limit=1.0, amount=0.5,
            currency="USD", message="half is spent",
        )
        for key in keys
    ]  # fmt: skip
    command = f'echo "$PENSTOCK_ALERT_ID" >> {folder}/told; cat > /dev/null'
    with Ledger(ledger_path(folder)) as ledger:
        ledger.alert(alerts, [f"webhook {posted[0]}", "file alerts.jsonl", f"command {command}"])

    def send(reached: Reached = nothing) -> None:
        with Ledger(ledger_path(folder)) as ledger:
            Courier(lambda: ledger, folder, reached).send(ledger, now=0.0)
            assert not ledger.owed()

    assert not run_in_child(lambda: send(KillAt(FaultPoint("alert.sent", kill))))
    send()
    told = (folder / "told").read_text().split()
    lines = (folder / "alerts.jsonl").read_text().splitlines()
    assert [msgspec.json.decode(line, type=Alert).id for line in lines] == keys
    assert set(posted[1]) == set(told) == set(keys)
    again = {"webhook": len(posted[1]) - 2, "command": len(told) - 2}
    killed = ("command", "file", "webhook")[(kill - 1) % 3]
    assert again == {each: int(each == killed) for each in again}, "nothing but what was sent when it was killed"
