"""OpenCost and Kubecost: what a cluster's workloads have cost, as their allocation APIs say it.

Both answer alike: ``code``, and as ``data`` a list of sets, each a map from names to allocations. A day in UTC is asked
for as one window, without accumulation: on the server's side that fails where a set is empty (``AllocationSetRange has
empty AssetSet in accumulation``). It is days, and not hours, since Kubecost restates those alone when a provider's bill
is known.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Annotated, Any
from urllib.parse import urlencode

import msgspec
import urllib3
from msgspec import Meta

from penstock.control.meter.reading import Allocation, Reading
from penstock.control.portfolio import Meters
from penstock.errors import MeterFailed

TOKEN_VARIABLE = "PENSTOCK_METER_TOKEN"
IDLE = "__idle__"
ANSWER_MAX_BYTES = 64 * 1024**2
"""A thousand allocations with all their fields are some two MB."""
CHUNK_BYTES = 64 * 1024
ROUNDED, ROUNDED_FIELDS = 1e-5, 16
"""They round each figure to so much, and a total has so many parts."""
TOLD_MAX = 200
"""Characters of an answer that are repeated."""
GIB = 2.0**30
HOUR_S = 3600.0

Moment = Annotated[datetime, Meta(tz=True)]


class _Window(msgspec.Struct, frozen=True):
    start: Moment
    end: Moment


class _Allocation(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The fields that are read of an allocation; what is not a number is null there, and older servers lack some."""

    window: _Window
    end: Moment | None = None
    minutes: float | None = None
    cpu_core_hours: float | None = None
    cpu_cost: float | None = None
    cpu_cost_adjustment: float | None = None
    gpu_hours: float | None = None
    gpu_cost: float | None = None
    gpu_cost_adjustment: float | None = None
    ram_byte_hours: float | None = None
    ram_cost: float | None = None
    ram_cost_adjustment: float | None = None
    pv_byte_hours: float | None = None
    pv_cost: float | None = None
    pv_cost_adjustment: float | None = None
    network_cost: float | None = None
    network_cost_adjustment: float | None = None
    load_balancer_cost: float | None = None
    load_balancer_cost_adjustment: float | None = None
    shared_cost: float | None = None
    external_cost: float | None = None
    total_cost: float | None = None


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    code: int
    data: list[dict[str, _Allocation] | None] | None = None
    message: str = ""


class _Configured(msgspec.Struct, frozen=True, rename="camel"):
    currency_code: str = ""


class _Configs(msgspec.Struct, frozen=True):
    data: _Configured = _Configured()


class OpenCostMeter:
    """Implements Meter."""

    def __init__(self, meters: Meters, *, now: Callable[[], float] = time.time) -> None:
        self._settings = meters.opencost
        self._source = meters.source
        self._currency = meters.currency
        self._currency_seen = False
        self._now = now
        self._url = self._settings.url.rstrip("/")
        token = os.environ.get(TOKEN_VARIABLE, "")
        self._headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._pool = urllib3.PoolManager(num_pools=1, timeout=self._settings.timeout_s, retries=False)

    def day(self, day: str) -> Reading:
        """What is known by now of this day. Raises MeterFailed."""
        self._check_currency()
        begins = datetime.fromisoformat(day).replace(tzinfo=UTC)
        ends = begins + timedelta(days=1)
        at = self._now()
        status, content = self._get(f"{self._url}?{urlencode(self._query(begins, ends))}")
        found: list[tuple[str, _Allocation]] = []
        for one in self._sets(status, content):
            found += one.items()
        for name, allocation in found:
            self._check_window(name, allocation.window, begins, ends)
        self._check_overlaps(found)
        idle = [allocation for name, allocation in found if _is_idle(name) and not _fault(allocation, 0.0)]
        held = [(name, allocation) for name, allocation in found if not _is_idle(name)]
        faults = {name: fault for name, allocation in held if (fault := _fault(allocation, -ROUNDED))}
        sound = [(name, allocation) for name, allocation in held if name not in faults]
        return Reading(
            day=day,
            at=at,
            allocations=tuple(_translated(sound, at)),
            idle=sum(allocation.total_cost or 0.0 for allocation in idle),
            faults=faults,
        )

    def close(self) -> None:
        self._pool.clear()

    def _query(self, begins: datetime, ends: datetime) -> dict[str, str]:
        settings, shared = self._settings, self._settings.idle == "shared"
        asked = {
            "window": f"{begins:%Y-%m-%dT%H:%M:%SZ},{ends:%Y-%m-%dT%H:%M:%SZ}",
            "step": "1d",
            "accumulate": "false",
            "aggregate": settings.aggregate,
            # The same question to OpenCost and to Kubecost, each of which lets the other's be.
            "includeIdle": "true",
            "idle": "true",
            "shareIdle": "true" if shared else "false",
        }
        return asked | ({"filter": settings.filter} if settings.filter else {})

    # Asking -----------------------------------------------------------------------------------------------------------

    def _get(self, url: str) -> tuple[int, bytes]:
        """The status and the whole content, within the time for one answer."""
        until = time.monotonic() + self._settings.timeout_s
        content = bytearray()
        try:
            answer = self._pool.request("GET", url, headers=self._headers, redirect=False, preload_content=False)
            with contextlib.closing(answer):
                while chunk := answer.read1(CHUNK_BYTES):
                    content += chunk
                    if len(content) > ANSWER_MAX_BYTES:
                        most = f"{ANSWER_MAX_BYTES // 1024**2} MiB"
                        raise self._failed(f"its answer is larger than {most}; say `filter`, or a coarser `aggregate`")
                    if time.monotonic() > until:
                        raise self._failed(f"its answer took longer than {self._settings.timeout_s:g} s (`timeout_s`)")
        except urllib3.exceptions.HTTPError as error:
            raise self._failed(_words(error)) from error
        if 300 <= answer.status < 400:
            target = answer.headers.get("Location", "nowhere")
            raise self._failed(f"it redirects to {target}, which is not followed; say that address if it is meant")
        return answer.status, bytes(content)

    def _sets(self, status: int, content: bytes) -> list[dict[str, _Allocation]]:
        try:
            answer = msgspec.json.decode(content, type=_Answer)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            told = content[:TOLD_MAX].decode(errors="replace").strip()
            if status != 200:
                raise self._failed(f"it answers {status}: {told or 'nothing'}") from error
            raise self._failed(f"its answer is not what an allocation API says ({error}): {told!r}") from error
        if status != 200 or answer.code != 200:
            code = answer.code if status == 200 else status
            raise self._failed(f"it answers {code}: {answer.message[:TOLD_MAX] or 'without a word'}")
        if answer.data is None:
            raise self._failed("its answer has no data")
        return [one for one in answer.data if one]

    def _check_currency(self) -> None:
        """Once: whether it counts in the currency that was said. One that does not tell is believed to."""
        if self._currency_seen:
            return
        place = self._url.removesuffix("/compute").removesuffix("/allocation")
        status, content = self._get(f"{place}/getConfigs")
        try:
            told = msgspec.json.decode(content, type=_Configs).data.currency_code if status == 200 else ""
        except (msgspec.MsgspecError, UnicodeDecodeError):
            told = ""
        if told and told.upper() != self._currency.upper():
            raise self._failed(f"it counts in {told}, and the budget in {self._currency} (`meter.currency`)")
        self._currency_seen = True

    # Checking ---------------------------------------------------------------------------------------------------------

    def _check_window(self, name: str, window: _Window, begins: datetime, ends: datetime) -> None:
        if window.start < begins or window.end > ends:
            raise self._failed(
                f"it was asked for {begins:%Y-%m-%d} in UTC, and counts {name} from {window.start:%Y-%m-%dT%H:%M:%S%z} "
                f"to {window.end:%Y-%m-%dT%H:%M:%S%z}; are its days those of another time zone?"
            )

    def _check_overlaps(self, found: list[tuple[str, _Allocation]]) -> None:
        """Nothing is counted twice: sets of the same answer stand beside each other."""
        windows: dict[str, list[_Window]] = {}
        for name, allocation in found:
            windows.setdefault(name, []).append(allocation.window)
        for name, theirs in windows.items():
            for one, other in pairwise(sorted(theirs, key=lambda each: each.start)):
                if other.start < one.end:
                    raise self._failed(f"it counts {name} twice, in windows that overlap")

    def _failed(self, reason: str) -> MeterFailed:
        return MeterFailed(source=self._source, reason=reason)


def _fault(allocation: _Allocation, least: float) -> str:
    """Why this cannot be charged; empty where it can. What is idle is told as less than nothing where requests add up
    to more than nodes have."""
    total = allocation.total_cost
    figures = [each for each in msgspec.structs.astuple(allocation) if isinstance(each, float)]
    if total is None or not all(map(math.isfinite, figures)):
        return "its cost is no number"
    return f"its cost is {total:g}, less than nothing" if total < least else ""


def _translated(found: list[tuple[str, _Allocation]], at: float) -> Iterator[Allocation]:
    """Each name once, whatever number of sets it stands in."""
    together: dict[str, list[_Allocation]] = {}
    for name, allocation in found:
        together.setdefault(name, []).append(allocation)
    for name, parts in together.items():
        by_resource: dict[str, float] = {}
        amounts: dict[str, float] = {}
        for part in parts:
            _add(by_resource, _costs(part))
            _add(amounts, _amounts(part))
        yield Allocation(
            name=name,
            by_resource=by_resource,
            amounts=amounts,
            # Where a window is shorter than a scrape, an allocation may end before it begins.
            ran_s=max(0.0, sum(60.0 * (part.minutes or 0.0) for part in parts)),
            until=min(at, max((part.end or part.window.end).timestamp() for part in parts)),
        )


def _costs(part: _Allocation) -> dict[str, float]:
    """The total, taken apart; ``other`` is what none of the parts has, as of a field that is not known here."""
    costs = {
        "cpu": _sum(part.cpu_cost, part.cpu_cost_adjustment),
        "gpu": _sum(part.gpu_cost, part.gpu_cost_adjustment),
        "memory": _sum(part.ram_cost, part.ram_cost_adjustment),
        "storage": _sum(part.pv_cost, part.pv_cost_adjustment),
        "network": _sum(part.network_cost, part.network_cost_adjustment),
        "load_balancer": _sum(part.load_balancer_cost, part.load_balancer_cost_adjustment),
        "shared": _sum(part.shared_cost),
        "external": _sum(part.external_cost),
        "other": 0.0,
    }
    rest = (part.total_cost or 0.0) - sum(costs.values())
    costs[max(costs, key=lambda each: costs[each]) if abs(rest) <= ROUNDED * ROUNDED_FIELDS else "other"] += rest
    return {resource: cost for resource, cost in costs.items() if cost}


def _amounts(part: _Allocation) -> dict[str, float]:
    return {
        "cpu": HOUR_S * _sum(part.cpu_core_hours),
        "gpu": HOUR_S * _sum(part.gpu_hours),
        "memory": HOUR_S / GIB * _sum(part.ram_byte_hours),
        "storage": HOUR_S / GIB * _sum(part.pv_byte_hours),
    }


def _sum(*figures: float | None) -> float:
    return sum(figure for figure in figures if figure is not None)


def _add(totals: dict[str, float], more: Mapping[str, float]) -> None:
    for key, amount in more.items():
        totals[key] = totals.get(key, 0.0) + amount


def _is_idle(name: str) -> bool:
    """Whether nobody has it; where it is told by node or cluster, their names stand before."""
    return name.rpartition("/")[2] == IDLE


def _words(error: Any) -> str:
    """What urllib3 says without the address of the connection's object."""
    return str(error).rpartition(">: ")[2] or type(error).__name__
