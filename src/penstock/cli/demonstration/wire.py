"""What the demo's clients need of each answer: when it arrived, and how far its version or its events reach."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec
import urllib3

from penstock.client import JSON, Acknowledged, Client
from penstock.errors import PenstockError, Refused, Unreachable

Marks = dict[str, int]
"""A position as it travels in HTTP: the next offset of each partition."""

TRIES = 50
"""Sends of one request, 0.1 s apart, before a client gives up: an acknowledgement may be waited for, never made up."""


class NotAnswered(PenstockError):
    """A prediction of {service} was not answered: {reason}"""


@dataclass(frozen=True, slots=True)
class Ack:
    """The server's word that events are durable."""

    accepted: int
    position: Marks
    at: float
    """Seconds of the monotonic clock at which it arrived."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Predictions of one request, all made by one version."""

    predictions: list[dict[str, Any]]
    position: Marks
    """The events that the version has learned."""
    at: float
    """Seconds of the monotonic clock at which it arrived."""


class Wire:
    """A client of one service; safe to share between threads."""

    def __init__(self, address: str, service: str) -> None:
        self.service = service
        self._client = Client(address)
        # Its own pool, since the position of an answer is in a header.
        self._pool = urllib3.PoolManager(maxsize=8, retries=False, timeout=urllib3.Timeout(connect=5.0, read=15.0))
        self._predict = f"{address}/v1/{quote(service)}/predict"

    def examples(self, events: Sequence[Mapping[str, Any]], source: str) -> Ack:
        """Send labelled events; they have ids, so sending them again after a lost answer is safe."""
        return self._sent(f"/v1/{quote(self.service)}/examples", events, source)

    def feedback(self, prediction: str, label: float | str) -> Ack:
        """Send the answer to an earlier prediction."""
        return self._sent(f"/v1/{quote(self.service)}/feedback", {"id": prediction, "label": label}, None)

    def predict(self, instances: Sequence[Mapping[str, Any]]) -> Answer:
        """Ask once, and never again: whoever calls counts a failure as a failure. Raises NotAnswered."""
        body = msgspec.json.encode({"instances": [{"features": features} for features in instances]})
        try:
            response = self._pool.request("POST", self._predict, body=body, headers={"Content-Type": JSON})
        except urllib3.exceptions.HTTPError as error:
            raise NotAnswered(service=self.service, reason=str(error)) from error
        at = time.monotonic()
        if response.status != 200:
            raise NotAnswered(service=self.service, reason=f"{response.status} {response.data[:300]!r}")
        return Answer(
            predictions=msgspec.json.decode(response.data)["predictions"],
            position=read_position(response.headers.get("Penstock-Position", "")),
            at=at,
        )

    def status(self) -> dict[str, Any]:
        """The service's status frame. Raises Unreachable or Refused."""
        return self._client.status(self.service)

    def versions(self, limit: int) -> list[dict[str, Any]]:
        """Receipts, the newest first. Raises Unreachable or Refused."""
        return self._client.versions(self.service, limit=limit)

    def close(self) -> None:
        self._pool.clear()
        self._client.close()

    def _sent(self, path: str, body: Any, source: str | None) -> Ack:
        left = TRIES
        while True:
            left -= 1
            try:
                answer = self._client.post(path, body, source=source)
                break
            except (Unreachable, Refused) as error:
                if not left or not error.retryable:
                    raise
                time.sleep(0.1)
        at = time.monotonic()
        ack = msgspec.convert(answer, Acknowledged)
        return Ack(accepted=ack.accepted, position=ack.position, at=at)


def read_position(text: str) -> Marks:
    """The value of a ``Penstock-Position`` header, such as ``0:1234,1:87``."""
    marks = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        partition, _, offset = part.partition(":")
        marks[partition] = int(offset)
    return marks


def covers(position: Marks, wanted: Marks) -> bool:
    """Whether a version at this position has taken everything before the wanted one."""
    return all(position.get(partition, 0) >= offset for partition, offset in wanted.items())
