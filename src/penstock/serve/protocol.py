"""HTTP/1.1 on a connection: uvicorn's protocol, with an end to its patience for headers and more of it for clients."""

from __future__ import annotations

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_MAX_BYTES = 64 * 1024
"""What a request's line and headers may have beyond what arrives in one piece; without a limit they fill the memory."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    _head_bytes = 0
    _is_in_head = False

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._is_in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._is_in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._is_in_head:
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_MAX_BYTES and not self.transport.is_closing():
                self.send_400_response(f"The headers are larger than {HEAD_MAX_BYTES} bytes.")

    def eof_received(self) -> bool:  # type: ignore[override]
        """A client that has said all it wants, and listens on, is answered before the connection closes."""
        last = self.cycle
        if last is None or last.response_complete or last.more_body:
            return False
        last.keep_alive = False
        return True
