"""The governor is killed at every action of a walk up and down the ladder: nothing is lost or counted twice."""

from __future__ import annotations

import datetime
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.control.budget.limits import Change
from penstock.control.changes import ask, waiting
from penstock.control.governor import Governor
from penstock.control.ledger import Ledger, ledger_path
from penstock.control.local_actuator import LocalActuator, wanted
from penstock.control.meter.rates import Capacity, Rates
from penstock.control.meter.sample import Process
from penstock.control.portfolio import House, Portfolio
from penstock.learn.steps import Reached, nothing
from penstock.publish.allowance import RUNGS, AllowanceFile
from penstock.spec import Budget, Feature, Spec
from penstock.testing.faults import KillAt, Recorder, run_in_child
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


def walk(data: Path, reached: Reached = nothing) -> None:
    """Walk, from wherever an earlier walk on this folder has ended."""
    eyes, at = Eyes(), [START]
    (data / "a").mkdir(exist_ok=True)
    (data / "run").mkdir(exist_ok=True)
    with Ledger(ledger_path(data)) as ledger:
        begun = max(0, round((ledger.metered().at - START) / 10.0) - 1)
        governor = Governor(
            [SPEC],
            data,
            HOUSE,
            sensor=eyes,
            live={"a": MemoryLiveWeights()},
            actuator=LocalActuator(data),
            ledger=ledger,
            now=lambda: at[0],
            elapsed=lambda: at[0] - START,
            reached=reached,
        )
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


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """Where syncing takes no time: it is processes that are killed here, and no machine."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as folder:
        yield Path(folder)


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
    for number, point in enumerate(recorder.points[::every]):
        data = folder / str(number)
        data.mkdir()
        assert not run_in_child(lambda data=data, point=point: walk(data, KillAt(point)))  # type: ignore[misc]
        walk(data)
        assert msgspec.to_builtins(found(data)) == msgspec.to_builtins(expected), str(point)
