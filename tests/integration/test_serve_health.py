"""What a service is called when its disk has next to no room."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from penstock.serve import status
from penstock.serve.served import Pace, Service


def test_a_disk_with_next_to_no_room_is_not_called_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    live = SimpleNamespace(version=lambda: 1, progress=lambda: SimpleNamespace(holding=False))
    parts = {"intake": SimpleNamespace(failure=None), "live": live, "thaw": SimpleNamespace(fault="")}
    service = SimpleNamespace(**parts, look=Pace, folder=tmp_path)
    monkeypatch.setattr(status, "DISK_LOW_BYTES", 0)
    assert status.health_of(cast(Service, service)).status == "ok"
    monkeypatch.setattr(status, "DISK_LOW_BYTES", 2**63)
    health = status.health_of(cast(Service, service))
    assert (health.status, health.worst.split(":")[0]) == ("degraded", "disk")
