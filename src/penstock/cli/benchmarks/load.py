"""The load generator: a process of its own that sends prepared requests to a running service and times the answers.

Run as ``python -m penstock.cli.benchmarks.load`` with a plan (`Flood` or `Pace`) as JSON on standard input; the outcome
goes to standard output as JSON. All bodies are encoded before the clock starts.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections import deque
from typing import Literal

import msgspec
import numpy as np

from penstock.cli.benchmarks import synthetic
from penstock.cli.benchmarks.connection import Answer, Connection, LoadFailed, Target
from penstock.cli.benchmarks.machine import percentiles

Form = Literal["json_single", "json_batch", "arrow_batch"]
MEDIA = {
    "json_single": "application/json",
    "json_batch": "application/json",
    "arrow_batch": "application/vnd.apache.arrow.stream",
}

POLL_S = 0.002
"""Between two looks at the status while the learner catches up: what the learned rate may be wrong by."""
PATIENCE_S = 120.0
"""How long the learner may take to catch up before the run counts as failed."""
RETRY_S = 0.002
"""Before a request that was answered with 503 is sent again: back-pressure is part of what is measured."""


class Plan(msgspec.Struct, frozen=True, kw_only=True, tag_field="plan", forbid_unknown_fields=True):
    """What to send where."""

    url: str
    """The service's address, such as ``http://127.0.0.1:7717/v1/stream``."""
    form: Form
    batch: int
    """Events a request."""
    start: int
    """The place in the stream of the first event sent."""
    seed: int = 0
    ids: str = ""
    """What the ids of the events begin with; empty for none."""


class Flood(Plan, tag="flood", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """As fast as the server takes it: every connection sends its next request when the last one was answered."""

    events: int
    connections: int


class Pace(Plan, tag="pace", frozen=True, kw_only=True, forbid_unknown_fields=True):
    """At a fixed rate, whatever the answers do, while another connection keeps asking for predictions."""

    requests_per_s: float
    connections: int
    predictions_per_s: float
    warm_up_s: float
    """At the same rate, before what is measured."""
    duration_s: float


class Flooded(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a flood. Seconds count from the first byte sent."""

    events: int
    accepted_s: float
    """Until the last request was acknowledged."""
    learned_s: float
    """Until the status said that everything accepted was learned."""
    requests_retried: int
    load_cpu_share: float
    """Of one core, used by the load generator itself until everything was learned."""
    bytes_per_event: float


class Paced(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a paced stretch."""

    events_per_s: float
    """Acknowledged, over the measured stretch."""
    batch: int
    requests_per_s: float
    freshness_ms: dict[str, float]
    """From the acknowledgement of an event to the first answered prediction of a version that includes it."""
    predict_ms: dict[str, float]
    """Of predictions that fell due in the measured stretch; empty where none of them was answered before its end."""
    acknowledge_ms: dict[str, float]
    predictions: int
    failed: int
    """Requests for predictions that were not answered with 200."""
    requests_retried: int
    behind_schedule_ms: dict[str, float]
    """How late the load generator itself was in sending events."""
    load_cpu_share: float


class _Acknowledged(msgspec.Struct):
    accepted: int
    position: dict[str, int]


_acknowledged = msgspec.json.Decoder(_Acknowledged).decode


def bodies_of(plan: Plan, events: int) -> list[bytes]:
    """The request bodies for this many events of the plan's stretch of the stream."""
    stream = synthetic.generate(events, start=plan.start, seed=plan.seed)
    if plan.form == "json_single":
        return synthetic.json_single(stream)
    ids = [f"{plan.ids}{plan.start + row}" for row in range(events)] if plan.ids else None
    encode = synthetic.json_batches if plan.form == "json_batch" else synthetic.arrow_batches
    return encode(stream, plan.batch, ids)


async def flood(plan: Flood) -> Flooded:
    """Send everything, wait until it is learned."""
    target = Target(plan.url)
    bodies = bodies_of(plan, plan.events)
    heads = [target.post("examples", MEDIA[plan.form], body) for body in bodies]
    requests = deque(zip(heads, bodies, strict=True))
    connections = [await target.connect() for _ in range(min(plan.connections, len(bodies)))]
    before = await target.status(connections[0])
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    unanswered = len(bodies)
    retried = 0

    def send(connection: Connection, head: bytes, body: bytes) -> None:
        def on_answer(status: int, _position: bytes, answer: bytes) -> None:
            nonlocal unanswered, retried
            if status == 201:
                unanswered -= 1
                if requests:
                    send(connection, *requests.popleft())
                elif not unanswered:
                    done.set_result(None)
            elif status == 503:
                retried += 1
                loop.call_later(RETRY_S, send, connection, head, body)
            else:
                target.fail(LoadFailed(f"events were answered with {status}: {answer[:300]!r}"))

        connection.request(head, body, on_answer)

    _settle_memory()
    cpu, started = time.process_time(), time.perf_counter()
    for connection in connections:
        send(connection, *requests.popleft())
    await target.until(done, PATIENCE_S)
    accepted_s = time.perf_counter() - started
    total = before.accepted + plan.batch * len(bodies)
    while True:
        events = await target.status(connections[0])
        learned_s = time.perf_counter() - started
        if events.accepted >= total and events.learned >= events.accepted:
            break
        if learned_s > accepted_s + PATIENCE_S:
            raise LoadFailed(f"{events.learned} of {events.accepted} events were learned after {learned_s:.0f} s")
        await asyncio.sleep(POLL_S)
    share = (time.process_time() - cpu) / learned_s
    target.close()
    return Flooded(
        events=plan.batch * len(bodies),
        accepted_s=accepted_s,
        learned_s=learned_s,
        requests_retried=retried,
        load_cpu_share=round(share, 3),
        bytes_per_event=round(sum(map(len, bodies)) / (plan.batch * len(bodies)), 1),
    )


class Prober:
    """Asks for one prediction after the other on a connection of its own, and keeps when it learned what."""

    def __init__(self, target: Target, connection: Connection, bodies: list[bytes], per_s: float) -> None:
        self.seen: list[tuple[float, bytes]] = []
        """When an answer came, and the position of the version that made it."""
        self.waited_ms: list[tuple[float, float]] = []
        """When a prediction was due, and how long its answer took from then."""
        self.failed = 0
        self._target, self._connection, self._period = target, connection, 1.0 / per_s
        self._requests = [(target.post("predict", MEDIA["json_single"], body), body) for body in bodies]
        self._due: deque[float] = deque()
        self._stopped = False

    async def run(self) -> None:
        """Ask until `stop`. What falls due while an answer is waited for, waits too, and that time is counted."""
        following = time.perf_counter()
        while not self._stopped:
            now = time.perf_counter()
            while following <= now:
                self._due.append(now)
                following += self._period
            if not self._connection.busy:
                self._send()
            await asyncio.sleep(max(0.0, following - time.perf_counter()))

    def stop(self) -> None:
        self._stopped = True

    def _send(self) -> None:
        if self._due:
            self._connection.request(*self._requests[len(self.seen) % len(self._requests)], self._on_answer)

    def _on_answer(self, status: int, position: bytes, _body: bytes) -> None:
        now = time.perf_counter()
        due = self._due.popleft()
        self.waited_ms.append((due, (now - due) * 1e3))
        self.failed += status != 200
        self.seen.append((now, position))
        if not self._stopped:
            self._send()


async def pace(plan: Pace) -> Paced:
    """Send at the plan's rate, probe meanwhile, and match acknowledgements with predictions afterwards."""
    target = Target(plan.url)
    count = round((plan.warm_up_s + plan.duration_s) * plan.requests_per_s)
    bodies = bodies_of(plan, count * plan.batch)
    heads = [target.post("examples", MEDIA[plan.form], body) for body in bodies]
    idle = [await target.connect() for _ in range(plan.connections)]
    questions = synthetic.predict_bodies(synthetic.generate(256, start=plan.start, seed=plan.seed))
    prober = Prober(target, await target.connect(), questions, plan.predictions_per_s)
    loop = asyncio.get_running_loop()
    done: asyncio.Future[None] = loop.create_future()
    waiting: deque[tuple[int, float]] = deque()
    acknowledged: list[tuple[float, float, dict[str, int]]] = []
    late_ms: list[float] = []
    retried = 0

    def send() -> None:
        while waiting and idle:
            number, due = waiting.popleft()
            connection = idle.pop()
            connection.request(heads[number], bodies[number], receiver(connection, number, due))

    def again(number: int, due: float) -> None:
        waiting.append((number, due))
        send()

    def receiver(connection: Connection, number: int, due: float) -> Answer:
        def on_answer(status: int, _position: bytes, body: bytes) -> None:
            nonlocal retried
            now = time.perf_counter()
            idle.append(connection)
            if status == 201:
                acknowledged.append((due, now, _acknowledged(body).position))
                if len(acknowledged) == count:
                    done.set_result(None)
            elif status == 503:
                retried += 1
                loop.call_later(RETRY_S, again, number, due)
            else:
                target.fail(LoadFailed(f"events were answered with {status}: {body[:300]!r}"))
            send()

        return on_answer

    _settle_memory()
    probing = loop.create_task(prober.run())
    cpu, started = time.process_time(), time.perf_counter()
    for number in range(count):
        due = started + number / plan.requests_per_s
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        if target.failure.done():
            break
        now = time.perf_counter()
        late_ms.append((now - due) * 1e3)
        waiting.append((number, now))
        send()
    await target.until(done, PATIENCE_S)
    last = acknowledged[-1][2]
    await _seen(target, prober, last)
    share = (time.process_time() - cpu) / (time.perf_counter() - started)
    prober.stop()
    await probing
    target.close()
    measured = [ack for ack in acknowledged if ack[0] >= started + plan.warm_up_s]
    fresh = freshness_ms([(at, position) for _, at, position in measured], prober.seen)
    span = max(at for _, at, _ in measured) - min(due for due, _, _ in measured)
    return Paced(
        events_per_s=round(len(measured) * plan.batch / span, 1),
        batch=plan.batch,
        requests_per_s=plan.requests_per_s,
        freshness_ms=percentiles(fresh),
        predict_ms=percentiles([ms for due, ms in prober.waited_ms if due >= started + plan.warm_up_s]),
        acknowledge_ms=percentiles([(at - due) * 1e3 for due, at, _ in measured]),
        predictions=len(prober.seen),
        failed=prober.failed,
        requests_retried=retried,
        behind_schedule_ms=percentiles(late_ms),
        load_cpu_share=round(share, 3),
    )


async def _seen(target: Target, prober: Prober, position: dict[str, int]) -> None:
    """Wait until a prediction was made by a version that includes this position."""
    deadline = time.perf_counter() + PATIENCE_S
    while not (prober.seen and _includes(positions(prober.seen[-1][1]), position)):
        if target.failure.done():
            target.failure.result()
        if time.perf_counter() > deadline:
            raise LoadFailed(f"no prediction of a version that includes {position} came within {PATIENCE_S:g} s")
        await asyncio.sleep(0.01)


def positions(header: bytes) -> dict[str, int]:
    """``0:1234, 1:5`` as the header has it, as a partition's next offset."""
    pairs = (pair.split(":") for pair in header.decode("ascii").split(",") if pair.strip())
    return {partition.strip(): int(offset) for partition, offset in pairs}


def _includes(seen: dict[str, int], position: dict[str, int]) -> bool:
    return all(seen.get(partition, 0) >= offset for partition, offset in position.items())


def freshness_ms(acknowledged: list[tuple[float, dict[str, int]]], seen: list[tuple[float, bytes]]) -> list[float]:
    """From each acknowledgement to the first answer, by then or later, of a version that includes its events.

    ``seen`` is in the order of time. An answer from before the acknowledgement counts as 0: nothing was waited for."""
    times = np.array([at for at, _ in seen])
    headers = [positions(header) for _, header in seen]
    reached = {
        # The highest offset answered so far passes a mark for the first time exactly where an answer does.
        partition: np.maximum.accumulate(np.array([header.get(partition, 0) for header in headers]))
        for partition in {name for _, position in acknowledged for name in position}
    }
    taken = []
    for at, position in acknowledged:
        first = max(int(np.searchsorted(reached[name], offset)) for name, offset in position.items())
        if first < len(times):
            taken.append(max(0.0, float(times[first]) - at) * 1e3)
        else:
            raise LoadFailed(f"no answered prediction includes the events up to {position}")
    return taken


def _settle_memory() -> None:
    """Nothing that was prepared is looked at by the collector again, so that it does not interrupt the clock."""
    gc.collect()
    gc.freeze()
    gc.disable()


async def _run(plan: Flood | Pace) -> Flooded | Paced:
    return await (flood(plan) if isinstance(plan, Flood) else pace(plan))


def main() -> None:
    """Read a plan, carry it out, write the outcome."""
    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Flood | Pace)
    try:
        import uvloop

        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    except ImportError:
        runner = asyncio.Runner()
    with runner:
        try:
            outcome = runner.run(_run(plan))
        except (LoadFailed, OSError) as error:
            sys.exit(f"the load stopped: {error}")
    sys.stdout.buffer.write(msgspec.json.encode(outcome))


if __name__ == "__main__":
    main()
