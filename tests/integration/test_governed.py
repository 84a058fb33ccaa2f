"""Those who follow a budget: learner, consolidator and alerts' couriers, each for real."""

from __future__ import annotations

import json
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import msgspec
import pytest

from penstock.control import courier
from penstock.control.budget.alerts import Alert
from penstock.control.consolidator import Consolidator
from penstock.control.courier import Courier, NotSent, channel, deliver
from penstock.control.ledger import Ledger, ledger_path
from penstock.control.supervisor import Child, Supervisor
from penstock.errors import LedgerUnavailable
from penstock.events import Version
from penstock.publish.candidates.consolidating import read_consolidating
from penstock.publish.interface import Progress
from penstock.publish.notices.allowance import FREE, Allowance, AllowanceFile, write_allowance
from penstock.spec import Consolidate, Feature, Spec
from penstock.testing.http_stub import answering, body, say
from penstock.testing.local_house import Traffic, publisher_of
from penstock.testing.memory_publish import MemoryLiveWeights


def alert(key: str) -> Alert:
    return Alert(
        id=key, at=1.0, scope="a", period="2026-07-31", basis="actual", percent=50.0, limit=1.0, amount=0.5,
        currency="USD", message="a: 0.5 USD have been spent",
    )  # fmt: skip


class Webhook:
    """Writes down the ids that it was sent, and fails as often as it is told."""

    def __init__(self) -> None:
        self.url = ""
        self.keys: list[str] = []
        self.failures = 0

    def take(self, handler: BaseHTTPRequestHandler) -> None:
        told = json.loads(body(handler))
        assert told["id"] == handler.headers["Idempotency-Key"]
        self.keys.append(told["id"])
        self.failures -= 1
        say(handler, 500 if self.failures >= 0 else 204)


@pytest.fixture
def webhook() -> Iterator[Webhook]:
    hook = Webhook()
    with answering(hook.take) as address:
        hook.url = f"{address}/alerts"
        yield hook


def test_alerts_arrive_by_every_channel_whatever_fails_or_crashes_in_between(tmp_path: Path, webhook: Webhook) -> None:
    seen = tmp_path / "seen.txt"
    command = f'echo "$PENSTOCK_ALERT_ID" >> {seen}; cat > /dev/null'
    channels = [channel("webhook", webhook.url), channel("file", "alerts.jsonl"), channel("command", command)]
    webhook.failures = 1
    with Ledger(ledger_path(tmp_path)) as ledger:
        ledger.alert([alert("one"), alert("two")], channels)
        ledger.alert([alert("one")], channels)
        courier = Courier(lambda: ledger, tmp_path)
        courier.send(ledger, now=0.0)
        assert [(owed.id, name) for owed, name in ledger.owed()] == [("one", channels[0])]
        courier.send(ledger, now=0.5)
        assert len(webhook.keys) == 2, "what failed is not tried again at once"
        courier.send(ledger, now=2.0)
        assert not ledger.owed()
    # A crash between sending and ticking off: all is owed again.
    with Ledger(ledger_path(tmp_path)) as ledger:
        ledger._base.execute("UPDATE deliveries SET sent = NULL")
        ledger._base.commit()
        Courier(lambda: ledger, tmp_path).send(ledger, now=0.0)
        assert not ledger.owed()
    assert Counter(webhook.keys) == {"one": 3, "two": 2}, "the webhook knows both by their keys"
    lines = [json.loads(line)["id"] for line in (tmp_path / "alerts.jsonl").read_text().splitlines()]
    assert lines == ["one", "two"], "a file has each once"
    assert Counter(seen.read_text().split()) == {"one": 2, "two": 2}


def tried(folder: Path, kind: str, target: str) -> str:
    """What keeps an alert from being sent by this channel; empty where it was sent."""
    try:
        deliver(alert("one"), channel(kind, target), folder)
    except NotSent as error:
        return str(error)
    return ""


def wait_until_gone(file: Path) -> None:
    """Until the process whose number a file has is no more, which a kill takes a moment for."""
    place = Path("/proc", file.read_text().strip(), "stat")
    with suppress(FileNotFoundError, ProcessLookupError):
        while place.read_text().split()[2] != "Z":
            threading.Event().wait(0.01)


def test_a_command_that_does_not_end_is_ended_with_all_that_it_has_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "WAIT_S", 1.0)
    command = f"sleep 600 & echo $! > {tmp_path}/child; wait"
    assert "had not ended in time" in tried(tmp_path, "command", command)
    wait_until_gone(tmp_path / "child")


def test_no_command_is_left_behind_when_all_is_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier, "LAST_S", 0.0)
    monkeypatch.setattr(courier, "WAIT_S", 600.0)
    ready = tmp_path / "child"
    with Ledger(ledger_path(tmp_path)) as ledger:
        ledger.alert([alert("one")], [channel("command", f"sleep 600 & echo $! > {ready}; wait")])
    sending = Courier(lambda: Ledger(ledger_path(tmp_path)), tmp_path)
    sending.start()
    while not (ready.exists() and ready.read_text()):
        threading.Event().wait(0.01)
    sending.close()
    assert not sending._thread.is_alive()
    wait_until_gone(ready)


def test_a_webhook_whose_answer_has_no_end_has_taken_the_alert(tmp_path: Path) -> None:
    over = threading.Event()

    def take(handler: BaseHTTPRequestHandler) -> None:
        body(handler)
        handler.send_response(200)
        handler.end_headers()
        over.wait(60.0)

    with answering(take) as address:
        assert tried(tmp_path, "webhook", address) == ""
        over.set()


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("file", "no/such/folder/alerts.jsonl"),
        ("file", "."),
        ("file", "nul\0l"),
        ("command", "nul\0l"),
        ("command", "exit 3"),
        ("webhook", "http://127.0.0.1:1/"),
        ("webhook", "http://[::1"),
        ("webhook", "http://"),
    ],
)
def test_a_channel_that_cannot_work_is_told_of_and_ends_nothing(tmp_path: Path, kind: str, target: str) -> None:
    assert tried(tmp_path, kind, target)


def test_a_courier_whose_ledger_fails_for_a_while_goes_on_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(courier, "AGAIN_S", 0.01)
    monkeypatch.setattr(courier, "LOOK_EVERY_S", 0.01)
    asked, arrived = [0], threading.Event()

    def open_ledger() -> Ledger:
        asked[0] += 1
        if asked[0] < 3:
            raise LedgerUnavailable(file=ledger_path(tmp_path), reason="the disk is full")
        return Ledger(ledger_path(tmp_path))

    with Ledger(ledger_path(tmp_path)) as ledger:
        ledger.alert([alert("one")], [channel("file", "alerts.jsonl")])
        sending = Courier(open_ledger, tmp_path, lambda point: arrived.set())
        sending.start()
        assert arrived.wait(30.0)
        sending.close()
        assert not ledger.owed()


def test_a_ledger_whose_counters_are_damaged_is_not_believed(tmp_path: Path) -> None:
    with Ledger(ledger_path(tmp_path)) as ledger:
        ledger.enter(ledger.metered(), [])
        ledger._base.execute("UPDATE metered SET body = x'80'")
        ledger._base.commit()
        with pytest.raises(LedgerUnavailable, match="not what was written"):
            ledger.metered()
    (tmp_path / "broken").write_bytes(b"this is no database, and longer than its header would be" * 20)
    with pytest.raises(LedgerUnavailable, match="not a database"):
        Ledger(tmp_path / "broken")


class Until:
    """Stops a loop once this holds."""

    def __init__(self, condition: object) -> None:
        self.is_set = condition


def test_a_learner_whose_learning_is_paused_has_a_checkpoint_and_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    allowed = [FREE]
    traffic = Traffic(tmp_path, seed=3)
    for _ in range(30):
        traffic.send()
    publisher = publisher_of(tmp_path, allowance=lambda: allowed[0])
    looks: list[tuple[bool, int]] = []

    def is_over() -> bool:
        looks.append((publisher._learner.rest_s > 0.0, sum(publisher.progress.position.values())))
        if len(looks) == 2:
            allowed[0] = Allowance(rung="pause_learning")
        if len(looks) == 4:
            for _ in range(10):
                traffic.send()
        if len(looks) == 5:
            allowed[0] = Allowance(rung="learn_less")
        return len(looks) > 5 and not publisher.has_backlog()

    publisher.run(Until(is_over))  # type: ignore[arg-type]
    paused = {taken for rests, taken in looks[2:5]}
    assert len(paused) <= 2, "nothing was taken while it was paused"
    assert looks[3][1] == looks[4][1]
    assert looks[3][0], "it rests between steps as well"
    steps = [path.name for path in (tmp_path / "checkpoints").iterdir()]
    assert len(steps) >= 2, "the pause began with a checkpoint"
    traffic.close()
    before = publisher.state_hash()
    again = publisher_of(tmp_path)
    again.start()
    assert again.state_hash() == before
    again.close()


def test_a_training_is_stopped_where_consolidation_is_paused_and_goes_on_under_its_number(tmp_path: Path) -> None:
    spec = Spec(
        name="s",
        task="binary",
        features={"x": Feature(type="number")},
        consolidate=Consolidate(every_events=100, max_s=60.0),
    )
    calls: list[int] = []

    def command(number: int, reason: str) -> list[str]:
        calls.append(number)
        if len(calls) == 1:
            threading.Timer(0.3, write_allowance, (tmp_path, Allowance(rung="pause_consolidation"))).start()
            return [sys.executable, "-c", "import time; time.sleep(60)"]
        leaves = f"import os; os.makedirs({str(tmp_path / 'consolidation/ready/00000001')!r})"
        return [sys.executable, "-c", leaves]

    (tmp_path / "checkpoints" / "1").mkdir(parents=True)
    live = MemoryLiveWeights()
    live.report(Progress(version=Version(1), examples_learned=100))
    consolidator = Consolidator(spec, tmp_path, live, command)
    stop = threading.Event()
    assert consolidator.look(stop)
    assert read_consolidating(tmp_path / "consolidation").phase == "waiting", "it has not failed"
    assert not consolidator.look(stop), "it is paused"
    write_allowance(tmp_path, Allowance(rung="slow_consolidation"))
    assert consolidator.look(stop)
    assert calls == [1, 1]


def test_learning_pauses_by_itself_when_nobody_has_watched_the_budget_for_too_long() -> None:
    assert not Allowance(learn_until=100.0).stops_learning(100.0)
    assert Allowance(learn_until=100.0).stops_learning(100.1)
    assert not Allowance().stops_learning(1e12)
    assert Allowance(rung="serving_floor").stops_learning(0.0)


def test_an_allowance_that_is_damaged_or_gone_is_read_as_it_should_be(tmp_path: Path) -> None:
    file = AllowanceFile(tmp_path)
    assert file() == FREE
    write_allowance(tmp_path, Allowance(rung="learn_less"))
    assert file().reaches("pause_consolidation")
    (tmp_path / "allowance.json").write_bytes(b"{")
    assert file().rung == "learn_less"
    (tmp_path / "allowance.json").unlink()
    assert file() == FREE


def test_a_child_that_is_not_wanted_rests_until_it_is_again(tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    program = f"open({str(begun)!r}, 'a').write('x'); import time; time.sleep(60)"
    children = [
        Child(name=name, argv=[sys.executable, "-c", code], group="servers", key=name, drain=0)
        for name, code in (("stays", "import time; time.sleep(60)"), ("rests", program))
    ]
    looks: list[int] = []

    def resting() -> set[str]:
        there = len(supervisor.pids("servers"))
        looks.append(there)
        count = len(begun.read_text()) if begun.exists() else 0
        if count == 2:
            supervisor._signals = 1
        # It is wanted until it runs, then not until it has ended, then again.
        return {"rests"} if count == 1 and 1 not in looks[2:] else set()

    supervisor = Supervisor(children, resting=resting)
    assert supervisor.run() == 0
    assert supervisor.restarts() == {}
    assert msgspec.json.encode(looks)
