"""OpenCost's and Kubecost's answers over HTTP: what they mean, and what is said of those that mean nothing."""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from penstock.control.meter.account import Outside
from penstock.control.meter_reader import MeterReader
from penstock.control.portfolio import Meters, OpenCost
from penstock.errors import MeterFailed
from penstock.integrations import opencost
from penstock.integrations.opencost import OpenCostMeter
from penstock.testing.http_stub import answering, say
from penstock.testing.meter_conformance import MeterConformance

DAY = "2026-07-31"
BEGAN = datetime.datetime(2026, 7, 31, tzinfo=datetime.UTC).timestamp()
NOW = BEGAN + 6 * 3600.0


RECORDED = json.loads("""{
    "properties": {"cluster": "one", "namespace": "shop", "labels": {"app": "shop"}},
    "cpuCores": 0.5, "cpuCoreRequestAverage": 0.5, "cpuCoreLimitAverage": 1, "cpuCoreUsageAverage": 0.2,
    "cpuCoreHours": 3.0, "cpuCost": 0, "cpuCostAdjustment": 0, "cpuCostIdle": 0, "cpuEfficiency": null,
    "gpuCount": 0, "gpuHours": 0, "gpuCost": 0, "gpuCostAdjustment": 0, "gpuCostIdle": 0, "gpuEfficiency": 0,
    "networkTransferBytes": 1e6, "networkReceiveBytes": 1e6, "networkCost": 0, "networkCrossZoneCost": 0,
    "networkCrossRegionCost": 0, "networkInternetCost": 0, "networkCostAdjustment": 0,
    "loadBalancerCost": 0, "loadBalancerCostAdjustment": 0, "lbAllocations": null,
    "pvBytes": 0, "pvByteHours": 0, "pvCost": 0, "pvs": null, "pvCostAdjustment": 0,
    "ramBytes": 1073741824, "ramByteRequestAverage": 1073741824, "ramByteLimitAverage": 1073741824,
    "ramByteUsageAverage": 536870912, "ramByteHours": 6442450944, "ramCost": 0, "ramCostAdjustment": 0,
    "ramCostIdle": 0, "ramEfficiency": 0.5, "externalCost": 0, "sharedCost": 0, "totalEfficiency": 0.4,
    "proportionalAssetResourceCosts": {}, "sharedCostBreakdown": {}, "gpuAllocation": null
}""")
"""The fields that OpenCost writes of an allocation, but for its name, its times and its total."""


def allocation(name: str, total: float | None, *, hours: tuple[int, int] = (0, 24), **more: Any) -> dict[str, Any]:
    """One of these windows; ``more`` changes fields, and takes away those that are ``...``."""
    start, end = (f"{DAY}T{hour:02d}:00:00Z" if hour < 24 else "2026-08-01T00:00:00Z" for hour in hours)
    times = {"window": {"start": start, "end": end}, "start": start, "end": f"{DAY}T06:00:00Z", "minutes": 360}
    fields = {**RECORDED, "name": name, **times, "totalCost": total, **more}
    return {key: value for key, value in fields.items() if value is not ...}


def answer(*sets: dict[str, Any] | None, code: int = 200, **more: Any) -> bytes:
    return json.dumps({"code": code, "data": list(sets), **more}).encode()


SHOP = allocation("shop", 0.25, cpuCost=0.1, cpuCostAdjustment=-0.02, ramCost=0.05, gpuCost=0.12, gpuHours=1.5)
OTHER = allocation("__unallocated__", 4.0, cpuCost=4.0)
IDLE = allocation("__idle__", 1.5, cpuCost=1.0, ramCost=0.5)


class Server:
    """Answers as it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[tuple[str, dict[str, list[str]], str]] = []
        self.answer: Callable[[BaseHTTPRequestHandler], None] | bytes = answer({})
        self.status = 200
        self.currency = b""

    def tell(self, handler: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(handler.path)
        if parts.path.endswith("/getConfigs"):
            say(handler, 200 if self.currency else 404, self.currency)
            return
        self.asked.append((parts.path, parse_qs(parts.query), handler.headers.get("Authorization", "")))
        if callable(self.answer):
            self.answer(handler)
        else:
            say(handler, self.status, self.answer)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    with answering(made.tell) as made.url:
        yield made


def meter(server: Server, path: str = "/allocation", *, currency: str = "USD", **settings: Any) -> OpenCostMeter:
    meters = Meters(opencost=OpenCost(url=server.url + path, **settings), currency=currency)
    return OpenCostMeter(meters, now=lambda: NOW)


@pytest.mark.parametrize(
    "path", ["/allocation", "/allocation/compute", "/model/allocation", "/model/allocation/compute"]
)
def test_a_day_is_asked_for_whole_and_told_by_resource(
    server: Server, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PENSTOCK_METER_TOKEN", "secret")
    server.answer = answer({"shop": SHOP, "__unallocated__": OTHER, "__idle__": IDLE})
    reading = meter(server, path, filter='namespace:"shop"').day(DAY)
    ((asked, query, token),) = server.asked
    assert asked == path
    assert token == "Bearer secret"
    assert {name: value for name, (value,) in query.items()} == {
        "window": "2026-07-31T00:00:00Z,2026-08-01T00:00:00Z",
        "step": "1d",
        "accumulate": "false",
        "aggregate": "label:app",
        "includeIdle": "true",
        "idle": "true",
        "shareIdle": "false",
        "filter": 'namespace:"shop"',
    }
    shop, other = reading.allocations
    assert shop.by_resource == pytest.approx({"cpu": 0.08, "memory": 0.05, "gpu": 0.12})
    assert shop.amounts == pytest.approx({"cpu": 10800.0, "memory": 21600.0, "gpu": 5400.0, "storage": 0.0})
    assert (shop.ran_s, shop.until, reading.at, reading.idle) == (21600.0, NOW, NOW, 1.5)
    assert (other.name, other.by_resource) == ("__unallocated__", {"cpu": 4.0})


def test_several_sets_of_a_day_older_fields_and_idle_by_node_are_added_up(server: Server) -> None:
    old = dict.fromkeys(("cpuCostIdle", "gpuCostIdle", "ramCostIdle", "gpuAllocation", "lbAllocations"), ...)
    first = allocation("app=shop", 0.1, hours=(0, 1), cpuCost=0.1, minutes=60, **old)
    second = allocation("app=shop", 0.3, hours=(1, 2), cpuCost=0.1, networkCost=0.05, loadBalancerCost=0.05, **old)
    idle = {f"one/node-{n}/__idle__": allocation("idle", 0.2, hours=(1, 2)) for n in (1, 2)}
    server.answer = answer(None, {"app=shop": first}, {"app=shop": second, **idle}, {})
    reading = meter(server, "/model/allocation", idle="shared").day(DAY)
    (shop,) = reading.allocations
    assert shop.by_resource == pytest.approx({"cpu": 0.2, "network": 0.05, "load_balancer": 0.05, "other": 0.1})
    assert reading.idle == pytest.approx(0.4)
    assert server.asked[0][1]["shareIdle"] == ["true"]


def test_what_servers_are_known_to_say_wrongly_is_no_reason_to_believe_nothing(server: Server) -> None:
    """Idle cost below zero, an allocation that ends before it begins, and figures whose roundings do not add up."""
    shop = allocation("shop", 0.15002, cpuCost=0.1, ramCost=0.05, minutes=-2.45, end=f"{DAY}T05:42:30Z", pvCost=None)
    server.answer = answer({"shop": shop, "__idle__": allocation("__idle__", -0.3)})
    reading = meter(server).day(DAY)
    (told,) = reading.allocations
    assert sum(told.by_resource.values()) == pytest.approx(0.15002)
    assert set(told.by_resource) == {"cpu", "memory"}
    assert (told.ran_s, told.until, reading.idle) == (0.0, BEGAN + 5 * 3600 + 42 * 60 + 30, 0.0)


def test_what_cannot_be_charged_is_named_and_the_others_are_told(server: Server) -> None:
    bad = {
        "null": allocation("null", None, hours=(0, 1)),
        "lacks": allocation("lacks", 1.0, totalCost=...),
        "negative": allocation("negative", -0.5),
    }
    later = {"null": allocation("null", 1.0, hours=(1, 2))}
    server.answer = answer({"shop": SHOP, "__idle__": allocation("__idle__", None), **bad}, later)
    reading = meter(server).day(DAY)
    assert [each.name for each in reading.allocations] == ["shop"], "a part of what something cost is not its cost"
    assert reading.faults == {
        "null": "its cost is no number",
        "lacks": "its cost is no number",
        "negative": "its cost is -0.5, less than nothing",
    }
    assert reading.idle == 0.0


def test_nothing_to_tell_is_told(server: Server) -> None:
    for content in (answer(), answer({}), answer(None)):
        server.answer = content
        assert meter(server).day(DAY).allocations == ()


HTML = b"<html><title>Sign in</title></html>"


@pytest.mark.parametrize(
    ("status", "content", "told"),
    [
        (500, answer(code=500, message="error accumulating: empty AssetSet"), "answers 500: error accumulating: empty"),
        (200, answer(code=400, message="bad window"), "answers 400: bad window"),
        (502, HTML, "answers 502: <html><title>Sign in"),
        (503, b"", "answers 503: nothing"),
        (200, HTML, "is not what an allocation API says .*<html><title>Sign in"),
        (200, b"\xff\xfe", "is not what an allocation API says"),
        (200, b'{"code": 200, "data": null}', "has no data"),
        (200, b'{"code": 200, "data": {"shop": 1}}', "is not what an allocation API says"),
        (200, answer({"shop": SHOP})[:-40], "is not what an allocation API says"),
        (200, answer({"shop": allocation("shop", 1.0, window=...)}), "missing required field `window`"),
        (200, answer({"shop": allocation("shop", 1.0, window={"start": None, "end": None})}), "is not what"),
        (
            200,
            answer(
                {"shop": allocation("shop", 1.0, window={"start": f"{DAY}T02:00:00Z", "end": "2026-08-01T02:00:00Z"})}
            ),
            "counts shop from 2026-07-31T02:00:00.* another time zone",
        ),
        (
            200,
            answer(*({"shop": allocation("shop", 1.0, hours=(at, at + 2))} for at in (0, 1))),
            "counts shop twice, in windows that overlap",
        ),
    ],
)
def test_what_is_no_answer_is_told_and_nothing_is_made_of_it(
    server: Server, status: int, content: bytes, told: str
) -> None:
    server.status, server.answer = status, content
    with pytest.raises(MeterFailed, match=told) as caught:
        meter(server).day(DAY)
    assert str(caught.value).startswith(f"OpenCost at {server.url}/allocation does not say what was spent: ")


def test_a_redirect_is_not_followed_and_the_token_stays_here(server: Server) -> None:
    server.answer = lambda handler: say(handler, 302, Location="http://127.0.0.1:1/login")
    with pytest.raises(MeterFailed, match=r"redirects to http://127\.0\.0\.1:1/login, which is not followed"):
        meter(server).day(DAY)
    assert len(server.asked) == 1


def test_an_answer_without_end_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            for _ in range(200):
                handler.wfile.write(b" " * 100)
                time.sleep(0.02)
        except OSError:
            pass

    server.answer = drip
    with pytest.raises(MeterFailed, match=r"took longer than 0.1 s"):
        meter(server, timeout_s=0.1).day(DAY)
    server.answer = lambda handler: time.sleep(0.5)
    with pytest.raises(MeterFailed, match="timed out"):
        meter(server, timeout_s=0.1).day(DAY)
    monkeypatch.setattr(opencost, "ANSWER_MAX_BYTES", 2**20)
    server.answer = b" " * (2**20 + 1)
    with pytest.raises(MeterFailed, match="larger than 1 MiB; say `filter`"):
        meter(server).day(DAY)


def test_another_currency_is_not_taken_for_ours(server: Server) -> None:
    server.answer, server.currency = answer({"shop": SHOP}), b'{"code": 200, "data": {"currencyCode": "EUR"}}'
    with pytest.raises(MeterFailed, match=r"counts in EUR, and the budget in USD \(`meter.currency`\)"):
        meter(server).day(DAY)
    assert not server.asked
    assert meter(server, currency="EUR").day(DAY).allocations
    server.currency = b"<html>"
    assert meter(server).day(DAY).allocations, "who does not tell is believed"


def test_today_is_read_though_yesterday_cannot_be_and_silence_is_heard(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing_yesterday(handler: BaseHTTPRequestHandler) -> None:
        is_today = f"window={DAY}" in handler.path
        content = answer({"shop": SHOP}) if is_today else answer(code=500, message="no such day")
        say(handler, 200 if is_today else 500, content)

    server.answer = failing_yesterday
    before = Outside().told("2026-07-30", BEGAN - 3600.0, {})
    reader = MeterReader(lambda: meter(server), 60.0, before, now=lambda: NOW)
    reader.read()
    first, second = reader.take()
    assert first.reading is not None
    assert first.reading.day == DAY
    assert "no such day" in second.fault
    for _ in range(3):
        reader.read()
    assert len(capsys.readouterr().err.splitlines()) == 3, "the first, second and fourth time"
    server.url = "http://127.0.0.1:1"
    reader = MeterReader(lambda: meter(server), 60.0, before, now=lambda: NOW)
    for _ in range(4):
        reader.read()
    assert all("Connection refused" in heard.fault for heard in reader.take())
    assert len(capsys.readouterr().err.splitlines()) == 3


def test_a_defect_of_ours_is_heard_as_well(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opencost, "_translated", None)
    server.answer = answer({"shop": SHOP})
    reader = MeterReader(lambda: meter(server), 60.0, Outside(), now=lambda: NOW)
    reader.read()
    (heard,) = reader.take()
    assert heard.fault.startswith("reading what was spent failed: TypeError")


class Counting:
    """OpenCost behind HTTP, of which the days of a test are known."""

    def __init__(self, server: Server) -> None:
        self.at = NOW
        self.meter = OpenCostMeter(Meters(opencost=OpenCost(url=f"{server.url}/allocation")), now=lambda: self.at)
        self._server = server
        self._costs: dict[str, dict[str, float]] = {}
        server.answer = self._tell

    def spend(self, day: str, name: str, cost: float) -> None:
        self._costs.setdefault(day, {})[name] = cost

    def wait(self, seconds: float) -> None:
        self.at += seconds

    def fail(self) -> None:
        self._server.answer = b"<html>"

    def _tell(self, handler: BaseHTTPRequestHandler) -> None:
        start, _, end = parse_qs(urlsplit(handler.path).query)["window"][0].partition(",")
        window = {"start": start, "end": end}
        costs = self._costs.get(start[:10], {})
        say(handler, 200, answer({n: allocation(n, cost, window=window, end=end) for n, cost in costs.items()}))


class TestOpenCostMeter(MeterConformance):
    @pytest.fixture
    def counting(self, server: Server) -> Counting:
        return Counting(server)
