"""The load of `penstock bench swap`: predictions at a fixed rate over many connections, in a process of its own.

Run as ``python -m penstock.cli.benchmarks.swap_load`` with a plan as one line of JSON on standard input. It answers
``ready`` when all connections stand, goes on until standard input is closed, and then writes what it has seen, as
MessagePack, to standard output. Times are those of the machine's monotonic clock, which all processes share.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import deque

import msgspec

from penstock.cli.benchmarks.connection import Connection, LoadFailed, Target
from penstock.cli.benchmarks.machine import percentiles

DRAIN_S = 10.0
"""For answers that are under way at the end."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to ask where."""

    url: str
    connections: int
    per_s: float
    """Requests a second, over all connections."""
    bodies: list[str]
    """The questions, asked in turn, each as JSON."""


class Seen(msgspec.Struct, frozen=True, array_like=True):
    """One answer."""

    asked: float
    """When it was due to be sent; where no connection was free, the time spent waiting for one counts."""
    answered: float
    status: int
    question: int
    version: int
    chances: list[float]
    """Of the classes, in their order."""
    refused: str = ""
    """What was said instead of an answer."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that was seen."""

    seen: list[Seen]
    lost: int
    """Requests whose connection was closed before the answer, or that were never answered."""
    behind_schedule_ms: dict[str, float]
    """How late the load itself was in asking."""
    cpu_share: float
    """Of one core."""


class _Answer(msgspec.Struct):
    version: int
    probabilities: dict[str, float]


_answer = msgspec.json.Decoder(_Answer).decode


class Load:
    """Asks in turn over all connections, whatever the answers do."""

    def __init__(self, plan: Plan, target: Target, idle: deque[Connection]) -> None:
        self._plan = plan
        self._requests = [
            (target.post("predict", "application/json", body.encode()), body.encode()) for body in plan.bodies
        ]
        self._idle = idle
        self._waiting: deque[tuple[float, int]] = deque()
        self._asked = 0
        self._late_ms: list[float] = []
        self._raw: list[tuple[float, float, int, int, bytes]] = []

    async def run(self, stop: asyncio.Future[None]) -> Outcome:
        """Ask until ``stop``."""
        cpu, started = time.process_time(), time.monotonic()
        due = started
        while not stop.done():
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            now = time.monotonic()
            self._late_ms.append((now - due) * 1e3)
            self._waiting.append((now, self._asked % len(self._requests)))
            self._asked += 1
            self._send()
            due += 1.0 / self._plan.per_s
        until = time.monotonic() + DRAIN_S
        while len(self._raw) < self._asked and time.monotonic() < until:
            await asyncio.sleep(0.01)
        share = (time.process_time() - cpu) / (time.monotonic() - started)
        return Outcome(
            seen=[_decoded(*row) for row in self._raw],
            lost=self._asked - len(self._raw),
            behind_schedule_ms=percentiles(self._late_ms),
            cpu_share=round(share, 3),
        )

    def _send(self) -> None:
        while self._waiting and self._idle:
            asked, question = self._waiting.popleft()
            connection = self._idle.popleft()

            def on_answer(
                status: int,
                _position: bytes,
                body: bytes,
                asked: float = asked,
                question: int = question,
                connection: Connection = connection,
            ) -> None:
                self._raw.append((asked, time.monotonic(), status, question, body))
                self._idle.append(connection)
                self._send()

            connection.request(*self._requests[question], on_answer)


def _decoded(asked: float, answered: float, status: int, question: int, body: bytes) -> Seen:
    if status != 200:
        return Seen(asked, answered, status, question, 0, [], body.decode(errors="replace")[:300])
    answer = _answer(body)
    return Seen(asked, answered, status, question, answer.version, list(answer.probabilities.values()))


async def _carry_out(plan: Plan) -> Outcome:
    target = Target(plan.url)
    idle = deque([await target.connect() for _ in range(plan.connections)])
    loop = asyncio.get_running_loop()
    stop: asyncio.Future[None] = loop.create_future()

    def closed() -> None:
        loop.remove_reader(sys.stdin)
        stop.set_result(None)

    loop.add_reader(sys.stdin, closed)
    sys.stdout.buffer.write(b"ready\n")
    sys.stdout.buffer.flush()
    outcome = await Load(plan, target, idle).run(stop)
    target.close()
    return outcome


def main() -> None:
    """Read a plan, carry it out until nobody wants more, write the outcome."""
    plan = msgspec.json.decode(sys.stdin.buffer.readline(), type=Plan)
    try:
        with asyncio.Runner() as runner:
            outcome = runner.run(_carry_out(plan))
    except (LoadFailed, OSError) as error:
        sys.exit(f"the load stopped: {error}")
    sys.stdout.buffer.write(msgspec.msgpack.encode(outcome))


if __name__ == "__main__":
    main()
