"""The codec gives back what it was given, and says so when bytes were damaged."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from penstock.events import Batch, Kind, PayloadDamaged, Schema, class_names, concatenate, decode, encode
from penstock.replies import Incumbent, Replies, together
from penstock.spec import ClassName, Feature, Spec

texts = st.one_of(st.none(), st.text(max_size=8))


chances = st.floats(0.0, 1.0)
rivals: st.SearchStrategy[Incumbent | None] = st.one_of(
    st.none(),
    st.floats(allow_nan=False),
    texts,
    st.lists(st.text(max_size=4)).map(tuple),
    st.dictionaries(st.text(max_size=4), chances),
)


@st.composite
def replies(draw: st.DrawFn, n: int) -> Replies:
    """Chances of some classes, or numbers."""
    names = tuple(draw(st.lists(st.sampled_from("abcd").map(ClassName), unique=True)))
    values = draw(arrays(np.float32 if names else np.float64, (n, len(names) or 1), elements={"allow_infinity": False}))
    return Replies(values, names)


@st.composite
def batches(draw: st.DrawFn, kind: Kind | None = None, shape: tuple[int, int, int] | None = None) -> Batch:
    kind = kind or draw(st.sampled_from(Kind))
    said_in = draw(st.sampled_from([np.float16, np.float64]))
    columns, width, strings = shape or (draw(st.integers(0, 4)), draw(st.integers(1, 3)), draw(st.integers(0, 2)))
    n = draw(st.integers(0, 9))

    def column() -> list[str | None]:
        return draw(st.lists(texts, min_size=n, max_size=n))

    return Batch(
        kind=kind,
        times=draw(arrays(np.float64, n)),
        ids=draw(st.one_of(st.none(), st.just(column()))),
        sources=draw(st.one_of(st.none(), st.just(column()))),
        numbers=draw(arrays(np.float64, (n, columns))),
        vectors=(draw(arrays(np.float32, (n, width))),),
        strings=tuple(column() for _ in range(strings)),
        labels=None if kind is Kind.PREDICTION else draw(arrays(np.float64, n)),
        versions=draw(arrays(np.uint64, n)) if kind is Kind.PREDICTION else None,
        said=draw(st.one_of(st.none(), arrays(said_in, (n, draw(st.integers(0, 3)))))),
        subjects=draw(st.one_of(st.none(), st.just(column()))),
        incumbents=draw(st.one_of(st.none(), st.lists(rivals, min_size=n, max_size=n))),
        replies=draw(st.one_of(st.none(), replies(n))),
    )


def assert_same(one: Batch, other: Batch) -> None:
    for name in ("kind", "ids", "sources", "strings", "subjects", "incumbents"):
        assert getattr(one, name) == getattr(other, name)
    np.testing.assert_array_equal(one.times, other.times)
    np.testing.assert_array_equal(one.numbers, other.numbers)
    for a, b in zip(one.vectors, other.vectors, strict=True):
        np.testing.assert_array_equal(a, b)
    assert (one.replies and one.replies.classes) == (other.replies and other.replies.classes)
    told = [batch.replies and batch.replies.values for batch in (one, other)]
    for a, b in ((one.labels, other.labels), (one.versions, other.versions), (one.said, other.said), told):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)


@given(batches())
def test_what_was_encoded_is_decoded_to_the_bit(batch: Batch) -> None:
    assert_same(decode(b"".join(encode(batch))), batch)


@given(st.lists(st.sampled_from(["cat", "dog", "7"]), max_size=5))
def test_class_names_survive(labels: list[str]) -> None:
    n = len(labels)
    batch = Batch(
        kind=Kind.FEEDBACK,
        times=np.zeros(n),
        ids=[str(i) for i in range(n)],
        sources=None,
        numbers=np.empty((n, 0)),
        vectors=(),
        strings=(),
        labels=labels,
        versions=None,
    )
    assert decode(b"".join(encode(batch))).labels == labels


@given(st.data())
def test_concatenated_batches_are_their_rows_in_order(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(Kind))
    parts = data.draw(st.lists(batches(kind, (2, 2, 1)), min_size=1, max_size=3))
    whole = concatenate(parts)
    at = 0
    for part in parts:
        piece = whole.rows(slice(at, at + len(part)))
        at += len(part)
        np.testing.assert_array_equal(piece.numbers, part.numbers)
        assert piece.strings == part.strings
        assert (piece.ids or [None] * len(part)) == (part.ids or [None] * len(part))
        if piece.said is not None:
            told = 0 if part.said is None else part.said.shape[1]
            assert part.said is None or np.array_equal(piece.said[:, :told], part.said, equal_nan=True)
            assert np.isnan(piece.said[:, told:]).all()
    assert (whole.said is None) == all(part.said is None for part in parts)
    assert at == len(whole)
    backwards = np.arange(len(whole))[::-1]
    np.testing.assert_array_equal(whole.rows(backwards).times, whole.times[::-1])


@given(batches(), st.data())
def test_truncated_bytes_are_refused_or_harmless(batch: Batch, data: st.DataObject) -> None:
    payload = b"".join(encode(batch))
    cut = data.draw(st.integers(0, max(0, len(payload) - 9)))
    with pytest.raises(PayloadDamaged):
        decode(payload[:cut])


@given(st.binary(max_size=64))
def test_any_bytes_give_a_batch_or_our_error(payload: bytes) -> None:
    with contextlib.suppress(PayloadDamaged):
        decode(payload)


def test_the_fingerprint_follows_the_columns_and_nothing_else() -> None:
    number = Feature(type="number")

    def schema(**features: Feature) -> Schema:
        return Schema.of(Spec(name="a", task="binary", features=features))

    assert schema(a=number, b=number).fingerprint == schema(a=number, b=number).fingerprint
    assert schema(a=number, b=number).fingerprint != schema(b=number, a=number).fingerprint
    assert schema(a=number).fingerprint != schema(a=Feature(type="text")).fingerprint


def test_replies_keep_their_classes_whatever_stands_beside_them() -> None:
    """Versions know classes in different orders; who asks by name gets what was said, and NaN where nothing was."""
    one = Replies(np.array([[0.9, 0.1]], np.float32), (ClassName("a"), ClassName("b")))
    other = Replies(np.array([[0.2, 0.5, 0.3]], np.float32), (ClassName("b"), ClassName("c"), ClassName("a")))
    whole = together([(1, one), (2, None), (1, other)])
    assert whole is not None
    assert whole.known.tolist() == [True, False, False, True]
    by_name = dict(zip(whole.classes, whole.values[[0, 3]].T.round(3).tolist(), strict=True))
    assert by_name["a"] == pytest.approx([0.9, 0.3])
    assert by_name["b"] == pytest.approx([0.1, 0.2])
    np.testing.assert_allclose(by_name["c"], [np.nan, 0.5])


def test_what_is_not_known_of_replies_is_taken_from_others() -> None:
    known = Replies(np.array([[np.nan], [2.0]]))
    assert known.or_else(Replies(np.array([[7.0], [8.0]]))).values.tolist() == [[7.0], [2.0]]


def test_a_log_of_before_there_were_incumbents_is_read() -> None:
    """The head of a payload had twelve fields then."""
    head = msgspec.msgpack.encode([1, 1, 0, [], None, None, [], ["a"], False, False, None, ["who"]])
    padding = b"\0" * (-(4 + len(head)) % 8)
    batch = decode(len(head).to_bytes(4, "little") + head + padding + np.zeros(1).tobytes())
    assert (batch.labels, batch.subjects, batch.incumbents, batch.replies) == (["a"], ["who"], None, None)


def test_a_label_that_is_taken_back_names_no_class() -> None:
    sets: Any = [("a", "b"), None, ()]
    names: Any = ["a", None, "b"]
    assert list(class_names(names)) == list(class_names(sets)) == ["a", "b"]
    assert list(class_names(np.array([np.nan, 1.0]))) == []
