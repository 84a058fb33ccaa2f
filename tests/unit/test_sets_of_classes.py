"""Sets of classes on their way in: JSON, Arrow, files, the log's bytes and the join; and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from penstock.cli.inference import infer
from penstock.cli.tables import open_source, pieces
from penstock.client import ARROW
from penstock.errors import BadEvent, BadFile, NotAmendable, SpecInvalid, TooLarge
from penstock.eventlog.interface import Entry
from penstock.events import Batch, Kind, Offset, Partition, Schema, class_names, concatenate, decode, encode
from penstock.join.window import JoinWindow
from penstock.learn.amended import AmendedReader
from penstock.serve.decode import Decoder, Media
from penstock.spec import ClassName, ClassSet, Feature, Label, Spec
from penstock.specfile.reader import load, loads
from penstock.specfile.writer import dump
from penstock.testing.memory_log import MemoryLog

SPEC = Spec(name="posts", task="multilabel", features={"x": Feature(type="number")}, label=Label(name="tags"))
decoder = Decoder(SPEC)
sets = st.frozensets(st.sampled_from(["a", "b", "ü;", "7", " "]), max_size=4)


def stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


def from_json(label: object, kind: Kind = Kind.EXAMPLE) -> Batch:
    event = {"id": "p", "label": label} | ({"features": {"x": 1}} if kind is Kind.EXAMPLE else {})
    return decoder.decode(kind, json.dumps(event).encode(), Media.JSON, 1.0)


def from_arrow(column: pa.Array) -> Batch:
    return decoder.decode(Kind.EXAMPLE, stream(pa.table({"x": [1.0] * len(column), "tags": column})), Media.ARROW, 1.0)


def labelled(labels: list[ClassSet], kind: Kind = Kind.FEEDBACK) -> Batch:
    n = len(labels)
    return Batch(
        kind=kind,
        times=np.zeros(n),
        ids=[f"p{i}" for i in range(n)],
        sources=None,
        numbers=np.zeros((n, 0 if kind is Kind.FEEDBACK else 1)),
        vectors=(),
        strings=(),
        labels=labels,
        versions=None,
    )


# JSON and Arrow -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.EXAMPLE, Kind.FEEDBACK])
def test_a_json_list_is_a_set_of_names(kind: Kind) -> None:
    assert from_json(["b", "a", "b", 7, True], kind).labels == [("7", "a", "b", "true")]
    assert from_json([], kind).labels == [()]


@pytest.mark.parametrize(
    ("label", "pointer", "said"),
    [
        ("a", "/label", "the label should be a list of classes"),
        (None, "/label", "but is null"),
        ([None], "/label/0", "a class within the label should be a string"),
        (["a", 1.5], "/label/1", "but is a number with a fraction"),
        (["a", ""], "/label/1", "1 to 512 characters"),
        ([["a"]], "/label/0", "but is a list"),
    ],
)
def test_what_is_no_set_is_refused_where_it_is(label: object, pointer: str, said: str) -> None:
    with pytest.raises(BadEvent, match=said) as caught:
        from_json(label)
    assert caught.value.pointer == pointer


def test_arrow_lists_of_text_integers_or_nothing_are_sets() -> None:
    assert from_arrow(pa.array([["b", "a"], [], ["a", "a"]])).labels == [("a", "b"), (), ("a",)]
    assert from_arrow(pa.array([["b"]], pa.large_list(pa.large_string()))).labels == [("b",)]
    assert from_arrow(pa.array([[3, 1]])).labels == [("1", "3")]
    assert from_arrow(pa.array([[], []], pa.list_(pa.null()))).labels == [(), ()]


@pytest.mark.parametrize(
    ("column", "said"),
    [
        (pa.array(["a"]), "should hold a list of classes.* but has type string"),
        (pa.array([[1.5]]), "but has type list<item: double>"),
        (pa.array([["a"], None]), "The label is missing in row 1"),
        (pa.array([["a"], ["a", None]]), "a null within the list of row 1"),
        (pa.array([["a"], [""]]), "row 1 has 0"),
        (pa.array([["x" * 513]]), "row 0 has 513"),
    ],
)
def test_arrow_columns_that_are_no_sets_are_refused(column: pa.Array, said: str) -> None:
    with pytest.raises(BadEvent, match=said):
        from_arrow(column)


VALID = b'[{"features":{"x":1},"label":["a","b"],"id":"k"},{"features":{},"label":[7,true]}]'
VALID_ARROW = stream(pa.table({"x": [1.0, 2.0, None], "tags": [["a", "b"], [], ["c"]]}))


def check(body: bytes, media: Media) -> None:
    try:
        batch = decoder.decode(Kind.EXAMPLE, body, media, 1.0)
    except (BadEvent, TooLarge):
        return
    again = decode(b"".join(encode(batch)))
    assert again.labels == batch.labels
    for names in batch.labels:  # type: ignore[union-attr]
        assert isinstance(names, tuple)
        assert list(names) == sorted(set(names))
        assert all(isinstance(name, str) and name for name in names)


pieces_of_bytes = st.sampled_from([b"[", b"]", b"null", b'"', b",", b"\xff", b"1.5", b'["', b"{}"])


@given(st.lists(st.tuples(st.integers(0, len(VALID)), st.integers(0, 9), pieces_of_bytes), min_size=1, max_size=3))
@settings(max_examples=300)
def test_mutated_json_is_a_batch_or_one_of_our_errors(edits: list[tuple[int, int, bytes]]) -> None:
    body = VALID
    for place, gone, put in edits:
        body = body[:place] + put + body[place + gone :]
    check(body, Media.JSON)


@given(st.lists(st.tuples(st.integers(0, len(VALID_ARROW) - 9), st.integers(0, 255)), min_size=1, max_size=6))
@settings(max_examples=300, deadline=None)
def test_arrow_with_flipped_bytes_is_a_batch_or_one_of_our_errors(flips: list[tuple[int, int]]) -> None:
    body = bytearray(VALID_ARROW)
    for place, value in flips:
        body[place] = value
    check(bytes(body), Media.ARROW)


# The log and the join -------------------------------------------------------------------------------------------------


@given(st.lists(sets, max_size=6))
def test_sets_survive_the_log_and_are_named_in_order(labels: list[frozenset[str]]) -> None:
    ordered: list[ClassSet] = [tuple(sorted(map(ClassName, names))) for names in labels]
    batch = labelled(ordered)
    assert decode(b"".join(encode(batch))).labels == ordered
    assert list(class_names(batch.labels)) == [name for names in ordered for name in names]
    if ordered:
        whole = concatenate([batch, batch.rows(np.array([0]))])
        assert whole.labels == [*ordered, ordered[0]]


def test_single_classes_are_stored_and_named_as_ever() -> None:
    one = replace(labelled([()]), labels=[ClassName("a")])
    stored = b"".join(encode(one))
    # The head's place for classes holds plain names, so that logs from before there were sets are read as they are.
    end = 4 + int.from_bytes(stored[:4], "little")
    head = msgspec.msgpack.decode(stored[4:end])
    assert head[7] == ["a"]
    assert decode(stored).labels == ["a"]
    # Before events said whose they are, a head was one place shorter.
    before = msgspec.msgpack.encode(head[:11])
    padding = bytes(-(4 + len(before)) % 8)
    arrays = stored[end + (-end % 8) :]
    assert decode(len(before).to_bytes(4, "little") + before + padding + arrays).labels == ["a"]
    features = {"x": Feature(type="number"), "c": Feature(type="category")}
    prints = {task: Schema.of(Spec(name="s", task=task, features=features)).fingerprint for task in TASKS}
    assert prints == TASKS


TASKS: dict[Any, str] = {
    "binary": "ce3dce3f141d59b4",
    "multiclass": "ce3dce3f141d59b4",
    "regression": "887882efd36f5366",
    "counts": "887882efd36f5366",
}
"""As they stand in the blocks and checkpoints of services from before there were sets."""


@given(st.lists(sets, min_size=1, max_size=5), st.booleans(), st.booleans())
def test_feedback_brings_its_set_to_its_prediction_early_or_late(
    labels: list[frozenset[str]], early: bool, saved: bool
) -> None:
    ordered: list[ClassSet] = [tuple(sorted(map(ClassName, names))) for names in labels]
    feedback = labelled(ordered)
    n = len(ordered)
    asked = replace(
        labelled(ordered, Kind.PREDICTION), labels=None, versions=np.ones(n, np.uint64), numbers=np.arange(n)[:, None]
    )
    join = JoinWindow(60.0, 100)
    first, second = (feedback, asked) if early else (asked, feedback)
    assert join.take(first, Partition(0), Offset(0), 1.0) is None
    if saved:
        state = msgspec.msgpack.decode(msgspec.msgpack.encode(join.save()))
        join = JoinWindow(60.0, 100)
        join.load(state, lambda partition, offsets: asked.rows(np.array(offsets)))
    joined = join.take(second, Partition(0), Offset(n), 2.0)
    assert joined is not None
    assert joined.labels == ordered
    assert joined.numbers[:, 0].tolist() == list(range(n))
    assert decode(b"".join(encode(joined))).labels == ordered


def test_a_set_is_amended_by_a_set_and_by_nothing_else() -> None:
    log = MemoryLog()
    batch = labelled([(ClassName("a"),), ()])
    log.writer().append([Entry(kind=batch.kind, count=2, payload=encode(batch))])
    first, second = (Partition(0), Offset(0)), (Partition(0), Offset(1))

    def read(amendments: dict[tuple[Partition, Offset], Any]) -> list[Any]:
        frames = AmendedReader(log.reader(), amendments).read(Partition(0), Offset(0), Offset(2))
        return [label for frame in frames for label in decode(frame.payload).labels or ()]

    assert read({second: (ClassName("b"), ClassName("c"))}) == [("a",), ("b", "c")]
    assert read({first: None}) == [()]
    with pytest.raises(NotAmendable, match="its own is a set of classes"):
        read({first: ClassName("b")})


# Files ----------------------------------------------------------------------------------------------------------------


def tags_of(path: Path) -> list[Any]:
    found: list[Any] = []
    for piece in pieces(open_source(str(path), None), SPEC, label=None, skip=(), rows=2, done=0):
        media = Media.ARROW if piece.media == ARROW else Media.NDJSON
        found += decoder.decode(Kind.EXAMPLE, piece.body, media, 1.0).labels  # type: ignore[arg-type]
    return found


def test_a_cell_of_csv_holds_classes_with_semicolons_or_a_json_list(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text('x,tags\n1,b; a\n2,\n3,a\n4,"[""a;b"", ""c"", 7, true]"\n5,;a;\n6,[]\n')
    assert tags_of(path) == [("a", "b"), (), ("a",), ("7", "a;b", "c", "true"), ("a",), ()]
    path.write_text("x,tags\n1,a\n2,[1.5]\n")
    with pytest.raises(BadFile, match="should hold classes, such as a;b") as caught:
        tags_of(path)
    assert "row 2" in str(caught.value)


def test_parquet_holds_lists_or_the_same_texts_and_none_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    lists = pa.array([["b", "a"], [], ["a"]], pa.list_(pa.dictionary(pa.int32(), pa.string())))
    for column in (pa.array([["b", "a"], [], ["a"]]), pa.array(["b;a", "", "a"]), lists):
        pa.parquet.write_table(pa.table({"x": [1.0, 2.0, 3.0], "tags": column}), path)
        assert tags_of(path) == [("a", "b"), (), ("a",)]
    pa.parquet.write_table(pa.table({"x": [1.0, 2.0], "tags": [["a"], None]}), path)
    with pytest.raises(BadFile, match="'tags', is missing"):
        tags_of(path)


def test_json_lines_hold_json_lists(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"x": 1, "tags": ["b", "a"]}\n{"features": {"x": 2}, "label": []}\n')
    assert tags_of(path) == [("a", "b"), ()]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", "x,tags\n1,a;b\n2,\n3,c\n"),
        ("t.jsonl", '{"x": 1, "tags": ["a", "b"]}\n{"x": 2, "tags": []}\n{"x": 3, "tags": ["c"]}\n'),
    ],
)
def test_init_takes_such_a_column_for_several_classes(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    spec, _ = infer(str(path))
    assert (spec.task, spec.label.name, spec.label.classes) == ("multilabel", "tags", ("a", "b", "c"))
    assert loads(dump(spec)) == spec


# The service file -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ("serve: {quantiles: [0.5]}", "serve.quantiles: are of numbers"),
        ("label: {classes: [a, a]}", "label.classes: holds one class twice"),
        ("label: {classes: [a, b, c], classes_max: 2}", "label.classes: names 3 classes where classes_max is 2"),
        ("serve: {threshold: 1}", "serve.threshold: must be above 0 and below 1"),
        (
            "learn: {members: ['river.linear_model.LogisticRegression()']}",
            "learn.members: predict one class or a number, and there are none for several classes together",
        ),
    ],
)
def test_what_does_not_go_with_several_classes_is_said(tmp_path: Path, more: str, said: str) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(f"name: s\ntask: multilabel\nfeatures: {{x: number}}\n{more}\n")
    with pytest.raises(SpecInvalid) as caught:
        load(path)
    assert said in str(caught.value)
