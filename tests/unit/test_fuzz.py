"""Whatever bytes come to the log's reader, the doors of the server and the reader of service files, what they raise is
one of our errors. The short form is Hypothesis's; the long one takes a million inputs each, in pieces:

    pytest -m long tests/unit/test_fuzz.py
"""

from __future__ import annotations

import os
import resource
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_decode_fuzz import ARROW, VALID
from test_decode_fuzz import check as check_decoder

from penstock.errors import LogCorrupt, SpecInvalid
from penstock.eventlog.interface import Counts, Entry
from penstock.eventlog.segment import (
    SEGMENT_HEADER_BYTES,
    SegmentFile,
    SegmentHeader,
    frame_buffers,
    segment_header_bytes,
    segment_path,
)
from penstock.events import Batch, Kind, Offset, Partition, PayloadDamaged, decode, encode
from penstock.serve.decode import Media
from penstock.spec import ClassName
from penstock.specfile.reader import loads
from penstock.testing.mutation import mutated

EXECUTIONS = 1_000_000
PIECES = 50
"""Of each long form: some minutes at most."""
GROWTH_MAX_BYTES = 300 * 1024**2
"""That the process may have grown at its peak over one piece, which is far more than any input is worth."""

seeds = st.integers(0, 2**63)


def events(kind: Kind, n: int) -> Batch:
    return Batch(
        kind=kind,
        times=np.arange(n, dtype=float),
        ids=[f"e{i}" for i in range(n)],
        sources=[None, "s"][:n],
        numbers=np.empty((n, 0)) if kind is Kind.FEEDBACK else np.arange(3.0 * n).reshape(n, 3),
        vectors=() if kind is Kind.FEEDBACK else (np.ones((n, 2), np.float32),),
        strings=() if kind is Kind.FEEDBACK else (["a", None][:n],),
        labels=None if kind is Kind.PREDICTION else [ClassName("x"), ClassName("y")][:n],
        versions=np.ones(n, np.uint64) if kind is Kind.PREDICTION else None,
        said=np.zeros((n, 2), np.float16) if kind is Kind.PREDICTION else None,
    )


PAYLOADS = [b"".join(encode(events(kind, n))) for kind in Kind for n in (1, 2)]
HEADER = SegmentHeader(partition=Partition(0), base=Offset(0), previous=Offset(0), counts=Counts(), time=1.0)


def frame(kind: Kind, payload: bytes, first: int, count: int) -> bytes:
    entry = Entry(kind=kind, count=count, payload=[payload])
    return b"".join(frame_buffers(entry, Offset(first), 1.0, 0))


SEGMENT = segment_header_bytes(HEADER) + b"".join(
    frame(list(Kind)[i // 2], payload, sum(1 + j % 2 for j in range(i)), 1 + i % 2)
    for i, payload in enumerate(PAYLOADS)
)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="penstock-fuzz-", dir=memory) as name:
        yield Path(name)


def check_payload(seed: int, _: Path) -> None:
    """What a frame holds whose checksum is right: only a fault of ours could write it, and it is refused all the
    same."""
    payload = mutated(seed, PAYLOADS[seed % len(PAYLOADS)])
    try:
        batch = decode(payload)
    except PayloadDamaged:
        return
    # Whatever is taken for a batch has columns of one length, so that nothing behind it fails.
    n = len(batch)
    columns = [batch.ids, batch.sources, *batch.vectors, *batch.strings, batch.labels, batch.versions, batch.said]
    assert all(column is None or len(column) == n for column in columns)
    assert len(batch.numbers) == n


def check_segment(seed: int, folder: Path) -> None:
    segment_path(folder, Offset(0)).write_bytes(mutated(seed, SEGMENT, (b"PFRM", SEGMENT[72:120])))
    try:
        file = SegmentFile(folder, Offset(0))
        byte, size, end = SEGMENT_HEADER_BYTES, file.size(), Offset(0)
        while byte < size:
            found, after = file.frame_at(byte, size, end)
            assert after > byte, "it stands still"
            byte, end = after, Offset(end + found.count)
            decode(found.payload)
    except LogCorrupt:
        return


def check_json(seed: int, _: Path) -> None:
    form = list(VALID)[seed % len(VALID)]
    check_decoder(
        form[0], mutated(seed, VALID[form], (b"NaN", b"1e999", b"null", b'"', b"[", b"}", b"\\ud800")), form[1]
    )


def check_arrow(seed: int, _: Path) -> None:
    check_decoder(Kind.EXAMPLE, mutated(seed, ARROW), Media.ARROW)


SERVICE = b"""name: orders
task: binary
features:
  price: {type: number}
  photo: vector[4]
  country: {type: category, buckets: 64}
label: {name: returned, classes: [no, yes], wait: 1h}
learn: {half_lives: [16, 128, .inf], members: ["river.tree.HoeffdingTreeClassifier(grace_period=50)"]}
budget: {log_max: 10GiB}
"""
SPEC_PIECES = (
    b"*a",
    b"&a ",
    b"!!python/object:os.system ",
    b"<<: ",
    b": ",
    b"- ",
    b"{",
    b"]",
    b"1e999",
    b"\t",
    b"---\n",
)


def check_spec(seed: int, _: Path) -> None:
    try:
        loads(mutated(seed, SERVICE, SPEC_PIECES).decode("utf-8", "replace"), called="fuzzed.yaml")
    except SpecInvalid:
        return


CHECKS: dict[str, Callable[[int, Path], None]] = {
    "payload": check_payload,
    "segment": check_segment,
    "json": check_json,
    "arrow": check_arrow,
    "spec": check_spec,
}


@pytest.mark.parametrize("name", CHECKS)
def test_a_few_hundred_inputs_that_are_almost_right(name: str, folder: Path) -> None:
    @settings(max_examples=300, deadline=None, database=None)
    @given(seed=seeds)
    def each(seed: int) -> None:
        CHECKS[name](seed, folder)

    each()


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("piece", range(PIECES))
@pytest.mark.parametrize("name", CHECKS)
def test_a_million_inputs_that_are_almost_right(name: str, piece: int, folder: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    each = EXECUTIONS // PIECES
    for seed in range(piece * each, (piece + 1) * each):
        try:
            CHECKS[name](seed, folder)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error!r}") from error
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before < GROWTH_MAX_BYTES
