"""What a service is called when its disk has next to no room, or its learner is silent."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from penstock.publish.interface import Progress
from penstock.publish.notices.allowance import Allowance, AllowanceFile, write_allowance
from penstock.publish.weights.live import SharedLiveReader, SharedLiveWeights
from penstock.serve import health as of
from penstock.serve.served import Pace, Service


def test_a_disk_with_next_to_no_room_is_not_called_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live = SimpleNamespace(version=lambda: 1, progress=Progress, silence_s=lambda: 0.0)
    parts = {"intake": SimpleNamespace(failure=None), "live": live, "thaw": SimpleNamespace(fault="")}
    service = SimpleNamespace(**parts, look=Pace, folder=tmp_path, allowance=AllowanceFile(tmp_path))
    monkeypatch.setattr(of, "DISK_LOW_BYTES", 0)
    assert of.health_of(cast(Service, service)).status == "ok"
    monkeypatch.setattr(of, "DISK_LOW_BYTES", 2**63)
    health = of.health_of(cast(Service, service))
    assert (health.status, health.worst.split(":")[0]) == ("degraded", "disk")


def test_learning_that_a_budget_holds_back_is_told_as_that_and_not_as_a_stalled_learner(tmp_path: Path) -> None:
    live = SimpleNamespace(version=lambda: 1, progress=Progress, silence_s=lambda: 0.0)
    parts = {"intake": SimpleNamespace(failure=None), "live": live, "thaw": SimpleNamespace(fault="")}
    allowance = AllowanceFile(tmp_path)
    service = SimpleNamespace(**parts, look=lambda: Pace(stalled_s=99.0), folder=tmp_path, allowance=allowance)
    service.lag = lambda: 7
    assert of.health_of(cast(Service, service)).worst.startswith("learner: 7 events wait")
    write_allowance(tmp_path, Allowance(rung="pause_learning", why="0.96 of 1 are spent"))
    allowance()
    told = of.health_of(cast(Service, service))
    assert told == of.Health("degraded", "budget: learning is paused: 0.96 of 1 are spent")


def test_a_learner_that_died_with_nothing_waiting_is_noticed(tmp_path: Path) -> None:
    silence_s = 3.0
    live = SimpleNamespace(version=lambda: 1, progress=Progress, silence_s=lambda: silence_s)
    parts = {"intake": SimpleNamespace(failure=None), "live": live, "thaw": SimpleNamespace(fault="")}
    service = cast(Service, SimpleNamespace(**parts, look=Pace, folder=tmp_path, allowance=AllowanceFile(tmp_path)))
    assert of.health_of(service).status == "ok"
    silence_s = 40.0
    assert of.health_of(service) == of.Health("degraded", "learner: nothing was heard of it for 40 s")


def test_silence_is_counted_from_the_last_report(tmp_path: Path) -> None:
    reader = SharedLiveReader(tmp_path / "live")
    assert reader.silence_s() == 0.0
    writer = SharedLiveWeights(tmp_path / "live")
    writer.report(Progress())
    reader.progress()
    first = reader.silence_s()
    assert 0.0 < first < reader.silence_s()
    writer.close()
    reader.close()
