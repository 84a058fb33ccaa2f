"""Blocks as bytes: what was packed comes back as views, damage is named, and a digest names the contents."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from penstock.errors import BlockDamaged, PenstockError
from penstock.events import Offset, Partition, Version
from penstock.learn.block import digest, pack, unpack
from penstock.learn.interface import Block, BlockHead
from penstock.spec import ClassName

arrays = st.dictionaries(
    st.text(min_size=1, max_size=8),
    hnp.arrays(
        dtype=st.sampled_from([np.float64, np.float32, np.int64, np.uint8, np.bool_]),
        shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    ),
    max_size=4,
)
heads = st.builds(
    BlockHead,
    version=st.integers(0, 2**40).map(Version),
    position=st.dictionaries(st.integers(0, 5).map(Partition), st.integers(0, 2**50).map(Offset), max_size=3),
    task=st.sampled_from(["binary", "multiclass", "regression"]),
    schema=st.text(max_size=16),
    classes=st.lists(st.text(max_size=4).map(ClassName), max_size=3).map(tuple),
    settings=st.dictionaries(st.text(max_size=4), st.one_of(st.integers(-9, 9), st.text(max_size=3)), max_size=2),
)
blocks = st.builds(Block, head=heads, arrays=arrays)


def _block(**weights: np.ndarray) -> Block:
    head = BlockHead(
        version=Version(3), position={Partition(0): Offset(7)}, task="binary", schema="abc", settings={"seed": 1}
    )
    return Block(head=head, arrays=weights)


@given(blocks, st.binary(max_size=70))
def test_what_was_packed_comes_back_even_with_other_bytes_behind_it(block: Block, behind: bytes) -> None:
    again = unpack(b"".join(pack(block)) + behind)
    assert again.head == block.head
    assert again.arrays.keys() == block.arrays.keys()
    for name, array in block.arrays.items():
        assert again.arrays[name].dtype == array.dtype
        assert again.arrays[name].shape == array.shape
        assert again.arrays[name].tobytes() == array.tobytes()
    assert digest(again) == digest(block)


@given(blocks)
def test_arrays_begin_at_multiples_of_64_bytes_and_are_read_only_views(block: Block) -> None:
    whole = np.frombuffer(b"".join(pack(block)), np.uint8)
    assert whole.size % 64 == 0
    for array in unpack(whole.data).arrays.values():
        if array.nbytes:
            at = array.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
            assert at % 64 == 0
            assert 0 <= at < whole.size
            assert not array.flags.writeable


def test_an_array_that_is_not_contiguous_is_packed_in_its_own_order() -> None:
    turned = np.arange(6.0).reshape(2, 3).T
    assert np.array_equal(unpack(b"".join(pack(_block(w=turned)))).arrays["w"], turned)


@given(blocks, st.data())
def test_a_block_cut_short_is_named_as_damaged(block: Block, data: st.DataObject) -> None:
    whole = b"".join(pack(block))
    # The padding at the end carries nothing; anything shorter than the last array's bytes is noticed.
    cut = data.draw(st.integers(0, max(0, len(whole) - 64)))
    with pytest.raises(BlockDamaged) as caught:
        unpack(whole[: min(cut, len(whole) - 64)])
    assert "block" in str(caught.value)


@given(st.binary(max_size=200), st.booleans())
def test_arbitrary_bytes_raise_nothing_but_our_own_error(noise: bytes, looks_right: bool) -> None:
    with pytest.raises(PenstockError):
        unpack(b"PSTKBLK1" + noise if looks_right else noise)


@given(st.integers(0, 2**31), st.integers(1, 255))
def test_a_flipped_byte_never_reads_outside_of_the_buffer(place: int, flip: int) -> None:
    whole = bytearray(b"".join(pack(_block(a=np.arange(5.0), b=np.eye(3, dtype=np.float32)))))
    whole[place % len(whole)] ^= flip
    try:
        arrays = unpack(whole).arrays.values()
    except PenstockError:
        return
    assert all(array.nbytes <= len(whole) for array in arrays)


@pytest.mark.parametrize(
    "place",
    [
        ["w", "<f8", [3], 64],
        ["w", "<f8", [3], -8],
        ["w", "<f8", [-1, -3], 0],
        ["w", "|O8", [1], 0],
        ["w", "<f8", [2**40], 0],
    ],
)
def test_an_array_said_to_lie_elsewhere_is_refused(place: list[object]) -> None:
    head = msgspec.msgpack.encode([_block().head, [place], 64])
    start = b"PSTKBLK1" + len(head).to_bytes(8, "little") + head
    with pytest.raises(BlockDamaged, match="'w'"):
        unpack(start + bytes(-len(start) % 64) + bytes(64))


def test_the_digest_names_contents_and_not_the_publication() -> None:
    block = _block(b=np.arange(3.0), a=np.ones(2))
    published = Block(msgspec.structs.replace(block.head, version=Version(9), position={}), block.arrays)
    reordered = replace(block, arrays={name: block.arrays[name] for name in ("a", "b")})
    assert digest(block) == digest(published) == digest(reordered)
    others = [
        _block(b=np.arange(3.0), a=np.array([1.0, np.nextafter(1.0, 2.0)])),
        _block(b=np.arange(3.0).reshape(3, 1), a=np.ones(2)),
        _block(b=np.arange(3.0), c=np.ones(2)),
        Block(msgspec.structs.replace(block.head, classes=(ClassName("x"),)), block.arrays),
        Block(msgspec.structs.replace(block.head, settings={"seed": 2}), block.arrays),
    ]
    assert len({digest(block), *map(digest, others)}) == len(others) + 1
    assert len(digest(block)) == hashlib.sha256().digest_size * 2
