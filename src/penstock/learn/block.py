"""A block as bytes: what travels to the servers, and the name of its contents.

A packed block is: 8 bytes of magic, 8 bytes with the length of the head (little endian), the head (MessagePack), then
every array in name order, each at a multiple of 64 bytes from the beginning, so that a reader that maps the buffer
reads whole cache lines without a copy.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from math import prod
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from penstock.errors import BlockDamaged
from penstock.learn.interface import Block, BlockHead

MAGIC = b"PSTKBLK1"
ALIGNMENT = 64
DTYPES = frozenset({"<f8", "<f4", "<i8", "<i4", "<u8", "<u4", "|u1", "|b1"})
"""Plain numbers in little endian: nothing else is ever read from a buffer."""


class _Place(msgspec.Struct, array_like=True, frozen=True):
    name: str
    dtype: str
    shape: list[int]
    offset: int
    """From the beginning of the arrays, which is the first multiple of 64 after the head."""


class _Packed(msgspec.Struct, array_like=True, frozen=True):
    head: BlockHead
    places: msgspec.Raw
    """The places of all arrays, packed."""
    size: int
    """Bytes of all arrays with the padding between them."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Packed).decode
_decode_places = msgspec.msgpack.Decoder(list[_Place]).decode


def _padding(size: int) -> int:
    return -size % ALIGNMENT


def _plain(array: NDArray[Any]) -> NDArray[Any]:
    """The array contiguous and in little endian, copied only where it is not."""
    # ascontiguousarray makes a vector of a single number; the shape is put back.
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(array.shape)


def _bytes(array: NDArray[Any]) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def pack(block: Block) -> list[bytes | memoryview]:
    """The block as buffers to be written one after the other; contiguous arrays are not copied."""
    arrays = {name: _plain(block.arrays[name]) for name in sorted(block.arrays)}
    places: list[_Place] = []
    buffers: list[bytes | memoryview] = [b""]
    size = 0
    for name, array in arrays.items():
        places.append(_Place(name, array.dtype.str, list(array.shape), size))
        padding = _padding(array.nbytes)
        size += array.nbytes + padding
        if array.nbytes:
            buffers.append(_bytes(array))
        if padding:
            buffers.append(bytes(padding))
    head = _encode(_Packed(block.head, msgspec.Raw(_encode(places)), size))
    start = MAGIC + len(head).to_bytes(8, "little") + head
    buffers[0] = start + bytes(_padding(len(start)))
    return buffers


def unpack(buffer: bytes | bytearray | memoryview) -> Block:
    """The block in these bytes, which may be followed by others; its arrays are views that must not be written to."""
    view = memoryview(buffer).cast("B").toreadonly()
    if len(view) < 16 or view[:8] != MAGIC:
        raise BlockDamaged(reason="it does not begin like a block")
    end = 16 + int.from_bytes(view[8:16], "little")
    if end > len(view):
        raise BlockDamaged(reason=f"its head ends at byte {end} of {len(view)}")
    try:
        packed = _decode(view[16:end])
        places = _places(bytes(packed.places), packed.size)
    except (msgspec.MsgspecError, ValueError) as error:
        raise BlockDamaged(reason=f"its head cannot be read: {error}") from error
    start = end + _padding(end)
    if start + packed.size > len(view):
        raise BlockDamaged(reason=f"its arrays end at byte {start + packed.size} of {len(view)}")
    arrays: dict[str, NDArray[Any]] = {
        name: np.ndarray(shape, dtype, view, start + offset) if holds else np.empty(shape, dtype)
        for name, dtype, shape, offset, holds in places
    }
    return Block(head=packed.head, arrays=arrays)


@lru_cache(maxsize=64)
def _places(packed: bytes, size: int) -> tuple[tuple[str, np.dtype[Any], tuple[int, ...], int, bool], ...]:
    """Name, type, shape and offset of each array, and whether it has any entry: as good as always those of the version
    before, and looking at each takes longer than making it."""
    found = []
    for place in _decode_places(packed):
        if place.dtype not in DTYPES or any(extent < 0 for extent in place.shape):
            raise BlockDamaged(reason=f"array {place.name!r} has type {place.dtype!r} and shape {place.shape}")
        dtype, count = np.dtype(place.dtype), prod(place.shape)
        if place.offset < 0 or place.offset + count * dtype.itemsize > size:
            raise BlockDamaged(reason=f"array {place.name!r} lies outside of the buffer")
        try:
            np.empty(place.shape if not count else (0,), dtype)
        except ValueError as error:
            raise BlockDamaged(reason=f"array {place.name!r} has shape {place.shape}") from error
        found.append((place.name, dtype, tuple(place.shape), place.offset, count > 0))
    return tuple(found)


def digest(block: Block) -> str:
    """SHA-256 of what the block answers with: task, columns, settings, classes and arrays in name order; not of its
    version or position, so two publications of the same weights have one digest."""
    head = block.head
    described = [head.task, head.schema, sorted(head.settings.items()), list(head.classes)]
    hashed = hashlib.sha256(_encode(described))
    for name in sorted(block.arrays):
        array = _plain(block.arrays[name])
        hashed.update(_encode([name, array.dtype.str, list(array.shape)]))
        if array.nbytes:
            hashed.update(_bytes(array))
    return hashed.hexdigest()
