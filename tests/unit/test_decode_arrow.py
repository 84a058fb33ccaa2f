"""What Arrow requests decode to, and what a refused one says."""

import datetime

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from penstock.errors import BadEvent, Malformed, TooLarge
from penstock.events import Kind
from penstock.serve.decode import ROWS_MAX, Decoder, Media
from penstock.spec import Feature, Label, Spec

RICH = Spec(
    name="rich",
    task="multiclass",
    label=Label(name="kind"),
    features={
        "x": Feature(type="number"),
        "weekend": Feature(type="boolean"),
        "seen": Feature(type="timestamp"),
        "city": Feature(type="category"),
        "embedding": Feature(type="vector", width=2),
        "note": Feature(type="text"),
    },
)
rich = Decoder(RICH)
binary = Decoder(Spec(name="two", task="binary", features={"x": Feature(type="number"), "y": Feature(type="number")}))
regression = Decoder(Spec(name="flow", task="regression", features={"x": Feature(type="number")}))


def stream(table: pa.Table, rows_a_batch: int | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows_a_batch)
    return sink.getvalue().to_pybytes()


def example(decoder: Decoder, table: pa.Table, source: str | None = None):
    return decoder.decode(Kind.EXAMPLE, stream(table), Media.ARROW, 50.0, source)


def test_every_feature_type_lands_in_its_column():
    moment = datetime.datetime(1970, 1, 1, 0, 0, 10, 500_000)
    batch = example(
        rich,
        pa.table(
            {
                "kind": pa.array(["a", "b"]).dictionary_encode(),
                "note": pa.array(["n", None], pa.large_string()),
                "embedding": pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2)),
                "city": pa.array([7, None]),
                "seen": pa.array([moment, None], pa.timestamp("ns")),
                "weekend": [True, None],
                "x": pa.array([3, None], pa.int32()),
                "id": ["k", None],
                "time": pa.array(["1970-01-01T01:00:07+01:00", None]),
                "source": ["mine", None],
            }
        ),
        source="theirs",
    )
    assert batch.numbers[0].tolist() == [3.0, 1.0, 10.5]
    assert np.isnan(batch.numbers[1]).all()
    assert batch.vectors[0][0].tolist() == [1.0, 2.0]
    assert np.isnan(batch.vectors[0][1]).all()
    assert batch.strings == (["7", None], ["n", None])
    assert (batch.labels, batch.ids, batch.sources) == (["a", "b"], ["k", None], ["mine", "theirs"])
    assert batch.times.tolist() == [7.0, 50.0]


def test_absent_columns_are_missing():
    batch = example(rich, pa.table({"label": ["a"], "city": pa.nulls(1)}))
    assert np.isnan(batch.numbers).all()
    assert batch.strings == ([None], [None])


def test_json_and_arrow_agree():
    rows = [{"x": 1.25, "y": -3.0}, {"x": 0.1, "y": 1e300}]
    arrow = example(binary, pa.table({"x": [r["x"] for r in rows], "y": [r["y"] for r in rows], "label": [0, 1]}))
    json = binary.decode(
        Kind.EXAMPLE,
        b'[{"features":{"x":1.25,"y":-3.0},"label":0},{"features":{"x":0.1,"y":1e300},"label":1}]',
        Media.JSON,
        50.0,
    )
    assert arrow.numbers.tolist() == json.numbers.tolist()
    assert (arrow.labels, arrow.ids, arrow.times.tolist()) == (json.labels, json.ids, json.times.tolist())


def test_several_record_batches_are_one_request():
    table = pa.table({"x": np.arange(10.0), "y": np.zeros(10), "label": np.arange(10) % 2})
    batch = binary.decode(Kind.EXAMPLE, stream(table, rows_a_batch=3), Media.ARROW, 0.0)
    assert batch.numbers[:, 0].tolist() == list(range(10))
    assert batch.labels == ["0", "1"] * 5


@pytest.mark.parametrize(
    ("columns", "pointer", "said"),
    [
        ({"x": ["a", "b"], "label": [0, 1]}, "/features/x", "has type string"),
        ({"x": [1.0, float("nan")], "label": [0, 1]}, "/1/features/x", "Column 'x' is NaN in row 1"),
        ({"x": [None, float("-inf")], "label": [0, 1]}, "/1/features/x", "Column 'x' is infinity in row 1"),
        ({"x": [True, False], "label": [0, 1]}, "/features/x", "has type bool"),
        ({"x": [1.0, 2.0]}, "/label", "missing"),
        ({"x": [1.0, 2.0], "label": [0, None]}, "/1/label", "missing in row 1"),
        ({"x": [1.0, 2.0], "label": [0, 2]}, "/1/label", "not 2"),
        ({"x": [1.0, 2.0], "label": [0.0, 1.0]}, "/label", "has type double"),
        ({"x": [1.0, 2.0], "label": [0, 1], "z": [0, 1]}, "/z", "no feature or field 'z'"),
        ({"x": [1.0, 2.0], "label": [0, 1], "time": [0.0, float("inf")]}, "/1/time", "infinity"),
        ({"x": [1.0, 2.0], "label": [0, 1], "id": ["a", "b" * 600]}, "/1/id", "512"),
    ],
)
def test_a_fault_names_its_column_and_row(columns, pointer, said):
    with pytest.raises(BadEvent) as caught:
        example(binary, pa.table(columns))
    assert said in str(caught.value)
    assert caught.value.pointer == pointer


@pytest.mark.parametrize(
    ("column", "pointer"),
    [
        ([[1.0, 2.0], [1.0]], "/1/features/embedding"),
        ([[1.0, 2.0], [None, 1.0]], "/1/features/embedding"),
        ([None, [1.0, float("nan")]], "/1/features/embedding"),
        ([[1.0, 2.0], [1.0, 1e39]], "/1/features/embedding"),
        ([["a", "b"], ["a", "b"]], "/features/embedding"),
        ([1.0, 2.0], "/features/embedding"),
    ],
)
def test_vectors_are_checked(column, pointer):
    with pytest.raises(BadEvent) as caught:
        example(rich, pa.table({"kind": ["a", "b"], "embedding": column}))
    assert caught.value.pointer == pointer


def test_two_columns_of_one_name_are_refused():
    table = pa.Table.from_arrays([pa.array([1.0]), pa.array([2.0]), pa.array([1])], names=["x", "x", "label"])
    with pytest.raises(BadEvent, match="twice"):
        example(binary, table)


def test_a_stream_cut_anywhere_is_malformed():
    whole = stream(pa.table({"x": np.arange(6.0), "y": np.arange(6.0), "label": np.arange(6) % 2}), rows_a_batch=2)
    for length in range(len(whole)):
        with pytest.raises(Malformed):
            binary.decode(Kind.EXAMPLE, whole[:length], Media.ARROW, 0.0)


def test_no_rows_and_too_many_rows_are_refused():
    with pytest.raises(BadEvent, match="no event"):
        example(binary, pa.table({"x": pa.array([], pa.float64()), "label": pa.array([], pa.int64())}))
    with pytest.raises(TooLarge):
        example(binary, pa.table({"x": pa.nulls(ROWS_MAX + 1)}))


def test_regression_labels_are_finite():
    assert example(regression, pa.table({"x": [1.0], "label": [2]})).labels.tolist() == [2.0]
    with pytest.raises(BadEvent) as caught:
        example(regression, pa.table({"x": [1.0, 1.0], "label": [2.0, float("nan")]}))
    assert caught.value.pointer == "/1/label"


def test_counts_are_whole_and_not_negative():
    decoder = Decoder(Spec(name="calls", task="counts", features={"x": Feature(type="number")}))
    assert example(decoder, pa.table({"x": [1.0, 2.0], "label": [2.0, 0.0]})).labels.tolist() == [2.0, 0.0]
    for label in (-1.0, 0.5, 2.0**54, float("nan")):
        with pytest.raises(BadEvent, match="row 1") as caught:
            example(decoder, pa.table({"x": [1.0, 1.0], "label": [2.0, label]}))
        assert (caught.value.pointer, caught.value.row) == ("/1/label", 1)
    with pytest.raises(BadEvent, match="a count: a whole number, 0 or more"):
        example(decoder, pa.table({"x": [1.0], "label": ["2"]}))


def test_feedback_by_columns():
    batch = rich.decode(Kind.FEEDBACK, stream(pa.table({"id": ["p"], "kind": ["a"]})), Media.ARROW, 1.0)
    assert (batch.ids, batch.labels, batch.numbers.shape) == (["p"], ["a"], (1, 0))
    with pytest.raises(BadEvent) as caught:
        rich.decode(Kind.FEEDBACK, stream(pa.table({"id": ["p", None], "kind": ["a", "b"]})), Media.ARROW, 1.0)
    assert caught.value.pointer == "/1/id"


def test_what_is_asked_has_no_label():
    assert binary.decode(Kind.PREDICTION, stream(pa.table({"x": [1.0]})), Media.ARROW, 1.0).labels is None
    with pytest.raises(BadEvent, match="'label'"):
        binary.decode(Kind.PREDICTION, stream(pa.table({"x": [1.0], "label": [1]})), Media.ARROW, 1.0)


def compressed(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize(
    "body",
    [
        compressed(pa.table({"city": pa.array(["a" * 200_000_000]), "kind": ["k"]})),
        stream(
            pa.table(
                {
                    "city": pa.DictionaryArray.from_arrays(pa.array([0] * 100_000, pa.int8()), ["a" * 10_000]),
                    "kind": pa.array(["k"] * 100_000).dictionary_encode(),
                }
            )
        ),
    ],
    ids=["compressed", "dictionary"],
)
def test_little_that_unpacks_to_much_is_refused(body):
    assert len(body) < RICH.serve.body_max_bytes
    with pytest.raises(TooLarge, match="unpacked"):
        rich.decode(Kind.EXAMPLE, body, Media.ARROW, 50.0)


def test_compressed_streams_of_ordinary_size_are_read():
    table = pa.table({"city": ["a", "b"] * 500, "x": [1.0, 2.0] * 500, "kind": ["k"] * 1000})
    assert len(rich.decode(Kind.EXAMPLE, compressed(table), Media.ARROW, 50.0)) == 1000


def test_a_label_that_is_null_within_its_dictionary_is_missing():
    kinds = pa.DictionaryArray.from_arrays(pa.array([0, 1], pa.int32()), pa.array(["a", None]))
    with pytest.raises(BadEvent, match="label is missing in row 1"):
        example(rich, pa.table({"kind": kinds}))


def test_a_time_beyond_what_can_be_kept_is_refused():
    seen = pa.array([2**62], pa.timestamp("s"))
    with pytest.raises(BadEvent, match="'seen' should hold times"):
        example(rich, pa.table({"kind": ["a"], "seen": seen}))


def test_feedback_may_take_a_label_back_by_a_column():
    columns = {"id": ["p", "q", "r"], "retract": [True, None, False]}
    table = pa.table({**columns, "label": pa.array([None, 1, 0])})
    assert binary.decode(Kind.FEEDBACK, stream(table), Media.ARROW, 1.0).labels == [None, "1", "0"]
    numbers = regression.decode(Kind.FEEDBACK, stream(table), Media.ARROW, 1.0).labels
    assert np.isnan(numbers).tolist() == [True, False, False]
    classes = pa.table({**columns, "kind": pa.array([None, "a", "b"]).dictionary_encode()})
    assert rich.decode(Kind.FEEDBACK, stream(classes), Media.ARROW, 1.0).labels == [None, "a", "b"]
    alone = pa.table({"id": ["p"], "retract": [True]})
    assert rich.decode(Kind.FEEDBACK, stream(alone), Media.ARROW, 1.0).labels == [None]


@pytest.mark.parametrize(
    ("retract", "labels", "said"),
    [
        ([True, False], [1, 0], "Row 0 both takes a label back and has one"),
        ([True, None], [None, None], "Row 1 neither has a label nor takes one back"),
        ([False, False], [1, None], "The label is missing in row 1"),
        ([True, False], [None, 7], "'0' and '1', not 7"),
        ([1, 0], [None, 1], "'retract' should hold true or false, but has type int64"),
    ],
)
def test_a_column_of_feedback_has_labels_or_takes_them_back(retract, labels, said):
    table = pa.table({"id": ["p", "q"], "retract": retract, "label": pa.array(labels, pa.int64())})
    with pytest.raises(BadEvent, match=said):
        binary.decode(Kind.FEEDBACK, stream(table), Media.ARROW, 1.0)


def test_a_column_says_whose_events_they_are_as_the_service_names_it():
    table = pa.table({"x": [1.0, 2.0], "label": [0, 1], "user_id": [7, None]})
    owned = Spec(name="o", task="binary", features={"x": Feature(type="number")}, subject="user_id")
    assert example(Decoder(owned), table).subjects == ["7", None]
    of_feature = msgspec.structs.replace(owned, features=owned.features | {"user_id": Feature(type="category")})
    batch = example(Decoder(of_feature), table)
    assert (batch.subjects, batch.strings) == (["7", None], (["7", None],))
    undeclared = msgspec.structs.replace(owned, subject=None)
    assert example(Decoder(undeclared), table.rename_columns(["x", "label", "subject"])).subjects == ["7", None]
    with pytest.raises(BadEvent, match="'user_id'"):
        example(Decoder(undeclared), table)
    mail = msgspec.structs.replace(undeclared, features={"subject": Feature(type="text")})
    assert example(Decoder(mail), pa.table({"label": [1], "subject": ["Hello"]})).subjects is None


# What another system answered --------------------------------------------------------------------------------------

several = Decoder(Spec(name="tags", task="multilabel", features={"x": Feature(type="number")}))
MAP = pa.map_(pa.string(), pa.float64())


@pytest.mark.parametrize(
    ("decoder", "labels", "said", "kept"),
    [
        (binary, [1, 0], pa.array([True, None]), ["1", None]),
        (binary, [1, 0], pa.array(["perhaps", "0"]).dictionary_encode(), ["perhaps", "0"]),
        (binary, [1, 0], pa.array([[("0", 0.25), ("1", 0.5)], None], MAP), [{"0": 0.25, "1": 0.5}, None]),
        (rich, ["a", "b"], pa.array([{"a": 0.25, "b": None}, {"a": 0, "b": 1.0}]), [{"a": 0.25}, {"a": 0.0, "b": 1.0}]),
        (several, [["a"], []], pa.array([["b", "a", "b"], None]), [("a", "b"), None]),
        (regression, [1.0, 2.0], pa.array([3, None]), [3.0, None]),
    ],
)
def test_what_another_system_answered_is_kept_beside_the_label(decoder, labels, said, kept):
    assert example(decoder, pa.table({"label": labels, "incumbent": said})).incumbents == kept
    feedback = stream(pa.table({"id": ["a", "b"], "label": labels, "incumbent": said}))
    assert decoder.decode(Kind.FEEDBACK, feedback, Media.ARROW, 1.0).incumbents == kept
    asked = stream(pa.table({"incumbent": said}))
    assert decoder.decode(Kind.PREDICTION, asked, Media.ARROW, 1.0).incumbents == kept
    without = pa.table({"label": labels, "incumbent": pa.nulls(2)})
    assert example(decoder, without).incumbents is None


@pytest.mark.parametrize(
    ("decoder", "labels", "said", "told"),
    [
        (binary, [1, 0], pa.array([None, 0.5]), "has type double"),
        (binary, [1, 0], pa.array([None, [("0", 0.75), ("1", 0.5)]], MAP), "adds up to 1.25"),
        (binary, [1, 0], pa.array([None, [("0", 75.0)]], MAP), "not between 0 and 1"),
        (binary, [1, 0], pa.array([None, [("0", float("nan"))]], MAP), "not between 0 and 1"),
        (binary, [1, 0], pa.array([None, []], MAP), "names no class"),
        (binary, [1, 0], pa.array([None, ""]), "1 to 512 characters"),
        (several, [["a"], []], pa.array([None, ["a", None]]), "a null within the list"),
        (several, [["a"], []], pa.array([None, "a"]), "a list of classes"),
        (regression, [1.0, 2.0], pa.array([None, float("inf")]), "is infinity"),
        (regression, [1.0, 2.0], pa.array([None, "3"]), "a finite number"),
    ],
)
def test_a_wrong_answer_of_another_system_is_refused_by_its_name(decoder, labels, said, told):
    with pytest.raises(BadEvent, match=told) as raised:
        example(decoder, pa.table({"label": labels, "incumbent": said}))
    assert raised.value.pointer in ("/incumbent", "/1/incumbent")


def test_a_feature_called_incumbent_has_the_column_to_itself():
    own = Decoder(Spec(name="own", task="binary", features={"incumbent": Feature(type="number")}))
    batch = example(own, pa.table({"label": [1], "incumbent": [0.5]}))
    assert (batch.numbers.tolist(), batch.incumbents) == ([[0.5]], None)
