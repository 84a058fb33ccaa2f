"""A client connection as light as one can be: the load shares the machine with what it measures."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast
from urllib.parse import urlsplit

import httptools
import msgspec

Answer = Callable[[int, bytes, bytes], None]
"""Called with the status, the ``Penstock-Position`` header (empty where there is none) and the body."""


class LoadFailed(RuntimeError):
    """The server did not do what the load needs to go on."""


class Events(msgspec.Struct):
    """How far a service is, from its status."""

    accepted: int
    learned: int


class _Status(msgspec.Struct):
    events: Events


_status = msgspec.json.Decoder(_Status).decode


class Connection(asyncio.Protocol):
    """One kept-alive connection with one request in flight: raw bytes out, httptools on the way back."""

    def __init__(self, lost: Callable[[Exception], None]) -> None:
        self.busy = False
        self.closing = False
        self._lost = lost
        self._on_answer: Answer | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._position = b""
        self._body: list[bytes] = []

    def request(self, head: bytes, body: bytes, on_answer: Answer) -> None:
        """Send one request; the answer comes back through ``on_answer``, from the event loop."""
        self.busy = True
        self._on_answer = on_answer
        self._transport.writelines((head, body))

    def close(self) -> None:
        self.closing = True
        self._transport.close()

    # What the event loop and the parser call.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's transports derive from no class of asyncio's

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.closing:
            self._lost(exc or LoadFailed("the server closed a connection of the load"))

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"penstock-position":
            self._position = value

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        position, body = self._position, b"".join(self._body)
        self._position, self._body = b"", []
        self.busy = False
        on_answer, self._on_answer = self._on_answer, None
        if on_answer is not None:
            on_answer(status, position, body)


class Target:
    """Where requests go, and the connections there."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self.path = parts.path.rstrip("/")
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._connections: list[Connection] = []

    async def connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self.fail), self.host, self.port)
        self._connections.append(connection)
        return connection

    def fail(self, error: Exception) -> None:
        if not self.failure.done():
            self.failure.set_exception(error)

    async def until(self, done: asyncio.Future[None], limit_s: float) -> None:
        """Wait for ``done``, or raise what went wrong on any connection."""
        await asyncio.wait({done, self.failure}, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        if self.failure.done():
            self.failure.result()
        if not done.done():
            raise LoadFailed(f"the load was not done after {limit_s:g} s")

    async def status(self, connection: Connection) -> Events:
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Events] = loop.create_future()

        def on_answer(status: int, _position: bytes, body: bytes) -> None:
            if status != 200:
                self.fail(LoadFailed(f"the status was answered with {status}: {body[:300]!r}"))
            else:
                answered.set_result(_status(body).events)

        connection.request(f"GET {self.path} HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode("ascii"), b"", on_answer)
        await self.until(answered, 10.0)  # type: ignore[arg-type]
        return answered.result()

    def post(self, what: str, media: str, body: bytes) -> bytes:
        """The head of a POST of this body."""
        return (
            f"POST {self.path}/{what} HTTP/1.1\r\nHost: {self.host}\r\n"
            f"Content-Type: {media}\r\nContent-Length: {len(body)}\r\n\r\n"
        ).encode("ascii")

    def close(self) -> None:
        for connection in self._connections:
            connection.close()
        if self.failure.done():
            self.failure.exception()
