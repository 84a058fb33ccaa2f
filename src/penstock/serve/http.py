"""Requests and answers over ASGI: bodies with a limit and a time, no framework."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from penstock.errors import PenstockError, TooLarge, TooSlow, UnsupportedMedia
from penstock.serve import problems

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

DISCARD_MAX_BYTES = 64 * 1024 * 1024
"""How much of a body beyond its limit is read and dropped, so that the client gets to the point of reading our answer.
A client that is still sending when the connection closes sees a broken connection instead of the reason."""

JSON_TYPE = b"application/json"


class ClientGone(Exception):
    """The client closed the connection before its request was complete; there is nobody to answer."""


class Reply(NamedTuple):
    """What is sent back."""

    body: bytes
    status: int = 200
    media: bytes = JSON_TYPE
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(slots=True)
class Request:
    """One request; its headers are looked at once."""

    path: str
    method: str
    query: bytes
    receive: Receive
    media: str = ""
    source: str | None = None
    length: int | None = None
    encoding: str = ""
    received: float = field(default_factory=time.time)
    """Seconds since 1970."""

    @classmethod
    def of(cls, scope: Scope, receive: Receive) -> Request:
        request = cls(scope["path"], scope["method"], scope["query_string"], receive)
        for name, value in scope["headers"]:
            if name == b"content-type":
                request.media = value.decode("latin-1")
            elif name == b"content-length":
                request.length = int(value) if value.isdigit() else None
            elif name == b"penstock-source":
                request.source = value.decode("latin-1")[:512] or None
            elif name == b"content-encoding":
                request.encoding = value.decode("latin-1")
        return request

    async def body(self, limit: int) -> bytes:
        """The whole body. Raises TooLarge beyond limit bytes, and ClientGone."""
        if self.encoding not in ("", "identity"):
            raise UnsupportedMedia(media=f"{self.media}; content-encoding {self.encoding}")
        if (self.length or 0) > limit + DISCARD_MAX_BYTES:
            raise TooLarge(what="request body", limit=f"{limit} bytes")
        message = await self.receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            whole: bytes = message.get("body", b"")
            if len(whole) > limit:
                raise TooLarge(what="request body", limit=f"{limit} bytes")
            return whole
        parts: list[bytes] = []
        size = 0
        while True:
            if message["type"] != "http.request":
                raise ClientGone
            part = message.get("body", b"")
            size += len(part)
            if size <= limit:
                parts.append(part)
            else:
                parts.clear()
            if not message.get("more_body"):
                break
            if size > limit + DISCARD_MAX_BYTES:
                break
            message = await self.receive()
        if size > limit:
            raise TooLarge(what="request body", limit=f"{limit} bytes")
        return b"".join(parts)


class Patience:
    """Ends requests whose bodies take too long: one look a second at all of them, instead of a timer for each."""

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._reading: dict[asyncio.Task[Any], float] = {}
        self._ended: set[asyncio.Task[Any]] = set()

    async def read(self, request: Request, limit: int) -> bytes:
        """The request's body. Raises TooSlow as well."""
        task = asyncio.current_task()
        assert task is not None
        self._reading[task] = time.monotonic()
        try:
            return await request.body(limit)
        except asyncio.CancelledError:
            if task not in self._ended:
                raise
            task.uncancel()
            raise TooSlow(seconds=self.limit_s) from None
        finally:
            del self._reading[task]
            self._ended.discard(task)

    async def watch(self) -> None:
        """Run for as long as the server does."""
        while True:
            await asyncio.sleep(min(1.0, self.limit_s / 4))
            late = time.monotonic() - self.limit_s
            for task, begun in list(self._reading.items()):
                if begun < late and task not in self._ended:
                    self._ended.add(task)
                    task.cancel()


async def respond(send: Send, answer: Reply, *, close: bool) -> None:
    """Send an answer; with close the connection ends after it."""
    headers = [
        (b"content-type", answer.media),
        (b"content-length", str(len(answer.body)).encode()),
        *answer.headers,
    ]
    if close:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})


def refusal(error: PenstockError) -> Reply:
    """The answer to a request that failed."""
    headers: tuple[tuple[bytes, bytes], ...] = ()
    if error.status == 503:
        wait_s = error.details.get("retry_after_s", problems.RETRY_AFTER_S)
        headers = ((b"retry-after", str(wait_s).encode()),)
    elif error.status == 405:
        headers = ((b"allow", str(error.details["allowed"]).encode()),)
    return Reply(problems.encoded(error), error.status, problems.PROBLEM_TYPE.encode(), headers)
