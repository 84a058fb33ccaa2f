"""The actuator of one machine: files that the processes of the house follow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from penstock.control.folder import replace_file
from penstock.publish.notices.allowance import Allowance, write_allowance
from penstock.publish.notices.costs import Costs, write_costs


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What ``run/wanted.json`` says to the supervisor."""

    workers: int | None = None
    """Server workers; None for as many as were asked for."""


class LocalActuator:
    """Implements Actuator."""

    def __init__(self, data: Path) -> None:
        self._data = data

    def allow(self, allowances: Mapping[str, Allowance]) -> None:
        """What each service may do from now on."""
        for service, allowance in allowances.items():
            write_allowance(self._data / service, allowance)

    def tell(self, costs: Mapping[str, Costs]) -> None:
        """What a second of each service's learning has cost, day by day."""
        for service, theirs in costs.items():
            write_costs(self._data / service, theirs)

    def serve_with(self, workers: int | None) -> None:
        """How many server workers there are to be."""
        if wanted(self._data).workers != workers:
            replace_file(wanted_path(self._data), msgspec.json.encode(Wanted(workers=workers)))


def wanted_path(data: Path) -> Path:
    """Where it stands what the supervisor is to run."""
    return data / "run" / "wanted.json"


def wanted(data: Path) -> Wanted:
    """What the supervisor is to run as of now; what nobody has said, or what cannot be read, is as it was asked for."""
    try:
        return msgspec.json.decode(wanted_path(data).read_bytes(), type=Wanted)
    except (OSError, msgspec.MsgspecError):
        return Wanted()
