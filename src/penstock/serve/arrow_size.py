"""How large an Arrow stream is once it is unpacked, read off its metadata before anything is unpacked.

A few kilobytes of compressed zeros unpack to gigabytes, and unpacking is what reading does first. Every compressed
buffer begins with its size, and where the buffers are stands in a message's metadata: a FlatBuffer, whose offsets the
library has verified when it gave the message out (https://arrow.apache.org/docs/format/Columnar.html).
"""

from __future__ import annotations

import struct
from typing import Any

import pyarrow as pa

_HEADER, _DATA, _BUFFERS, _COMPRESSION = 2, 1, 2, 3
"""Which field of its table each is: Message.header, DictionaryBatch.data, RecordBatch.buffers and .compression."""
_NOT_COMPRESSED = -1
"""What stands in the place of a buffer's size where packing it did not pay."""


def unpacked_bytes(stream: bytes) -> int:
    """Bytes that the stream's compressed buffers say they unpack to; 0 where none is compressed. Raises what reading a
    stream that is no good raises."""
    total = 0
    for message in pa.ipc.MessageReader.open_stream(stream):
        if message.type in ("record batch", "dictionary"):
            try:
                total += _unpacked(message)
            except struct.error as error:
                raise pa.ArrowInvalid(f"metadata that points outside of itself: {error}") from None
    return total


def _unpacked(message: Any) -> int:
    metadata = memoryview(message.metadata)
    batch = _table(metadata, _u32(metadata, 0), _HEADER)
    if message.type == "dictionary":
        batch = _table(metadata, batch, _DATA)
    if not _field(metadata, batch, _COMPRESSION) or not (buffers := _field(metadata, batch, _BUFFERS)):
        return 0
    body = memoryview(message.body)
    vector = buffers + _u32(metadata, buffers)
    total = 0
    for number in range(_u32(metadata, vector)):
        start, length = struct.unpack_from("<qq", metadata, vector + 4 + 16 * number)
        if length < 8 or start < 0 or start + 8 > len(body):
            # Empty, or outside of what there is, which reading refuses.
            continue
        size = struct.unpack_from("<q", body, start)[0]
        total += length - 8 if size == _NOT_COMPRESSED else max(0, size)
    return total


def _u32(data: memoryview, at: int) -> int:
    return int(struct.unpack_from("<I", data, at)[0])


def _field(data: memoryview, table: int, number: int) -> int:
    """Where a table's field stands; 0 where it has none."""
    fields = table - int(struct.unpack_from("<i", data, table)[0])
    entry = 4 + 2 * number
    if entry >= struct.unpack_from("<H", data, fields)[0]:
        return 0
    offset = int(struct.unpack_from("<H", data, fields + entry)[0])
    return table + offset if offset else 0


def _table(data: memoryview, table: int, number: int) -> int:
    """Where the table begins that a field points to."""
    at = _field(data, table, number)
    return at + _u32(data, at)
