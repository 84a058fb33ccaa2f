"""Whatever bytes come, they are a batch or one of our errors."""

import json

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.errors import BadEvent, TooLarge
from penstock.events import Batch, Kind, concatenate, decode, encode
from penstock.serve.decode import Decoder, Media
from penstock.spec import Feature, Spec

SPEC = Spec(
    name="fuzz",
    task="binary",
    features={
        "n": Feature(type="number"),
        "b": Feature(type="boolean"),
        "t": Feature(type="timestamp"),
        "c": Feature(type="category"),
        "v": Feature(type="vector", width=2),
        "s": Feature(type="text"),
    },
)
decoder = Decoder(SPEC)
kinds = st.sampled_from(Kind)

FEATURES = {"n": 1.5, "b": True, "t": "2024-01-01T00:00:00Z", "c": "k", "v": [1, -2.5], "s": "text"}
VALID = {
    (Kind.EXAMPLE, Media.JSON): json.dumps([{"features": FEATURES, "label": 1, "id": "a", "time": 3}] * 2).encode(),
    (Kind.PREDICTION, Media.JSON): json.dumps({"instances": [{"features": FEATURES}], "source": "s"}).encode(),
    (Kind.FEEDBACK, Media.JSON): json.dumps({"id": "p", "label": "0", "time": "2024-01-01T00:00:00Z"}).encode(),
    (Kind.EXAMPLE, Media.NDJSON): b'{"features":{"n":1},"label":1}\n\n{"features":{},"label":false,"source":"x"}\n',
}


def arrow_body() -> bytes:
    table = pa.table(
        {
            "n": [1.0, None],
            "b": [True, None],
            "t": pa.array([0, None], pa.timestamp("us")),
            "c": pa.array(["k", None]).dictionary_encode(),
            "v": pa.array([[1.0, 2.0], None], pa.list_(pa.float64())),
            "s": ["text", None],
            "label": [0, 1],
            "id": ["a", "b"],
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


ARROW = arrow_body()


def check(kind: Kind, body: bytes, media: Media) -> None:
    try:
        batch = decoder.decode(kind, body, media, 1.0, "source")
    except (BadEvent, TooLarge):
        return
    assert isinstance(batch, Batch)
    assert len(batch) >= 1
    # Whatever was accepted is whole, finite, and survives the log.
    assert not np.isinf(batch.numbers).any()
    assert np.isfinite(batch.times).all()
    assert all(not np.isinf(vector).any() for vector in batch.vectors)
    again = decode(b"".join(encode(concatenate([batch]))))
    assert (again.ids, again.strings, len(again)) == (batch.ids, batch.strings, len(batch))


def mutated(whole: bytes) -> st.SearchStrategy[bytes]:
    places = st.integers(0, len(whole))
    pieces = st.one_of(
        st.binary(max_size=4), st.sampled_from([b"NaN", b"1e999", b"null", b'"', b"[", b"}", b"\xff", b"\\ud800", b"-"])
    )
    edits = st.lists(st.tuples(places, st.integers(0, 12), pieces), min_size=1, max_size=3)

    def apply(changes: list[tuple[int, int, bytes]]) -> bytes:
        body = whole
        for place, gone, put in changes:
            body = body[:place] + put + body[place + gone :]
        return body

    return edits.map(apply)


@given(kinds, st.binary(max_size=200), st.sampled_from(Media))
def test_arbitrary_bytes(kind, body, media):
    check(kind, body, media)


@given(st.data(), st.sampled_from(list(VALID)))
@settings(max_examples=300)
def test_mutated_json(data, form):
    check(form[0], data.draw(mutated(VALID[form])), form[1])


names = st.sampled_from([*FEATURES, "label", "features"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*FEATURES, "label", "features"]), inner)
    ),
    max_leaves=8,
)


@given(kinds, json_values, st.dictionaries(st.sampled_from(list(FEATURES)), json_values), json_values)
def test_json_of_any_shape(kind, label, features, more):
    body = json.dumps([{"features": features, "label": label, "id": "i"}, more]).encode()
    check(kind, body, Media.JSON)


@given(mutated(ARROW))
@settings(max_examples=300, deadline=None)
def test_mutated_arrow(body):
    check(Kind.EXAMPLE, body, Media.ARROW)


@given(st.lists(st.tuples(st.integers(0, len(ARROW) - 9), st.integers(0, 255)), min_size=1, max_size=6))
@settings(max_examples=300, deadline=None)
def test_arrow_with_flipped_bytes(flips):
    body = bytearray(ARROW)
    for place, value in flips:
        body[place] = value
    check(Kind.EXAMPLE, bytes(body), Media.ARROW)
