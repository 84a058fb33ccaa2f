"""What JSON and NDJSON requests decode to, and what a refused one says."""

import math

import numpy as np
import pytest

from penstock.errors import BadEvent, Malformed, TooLarge, UnsupportedMedia
from penstock.events import Kind
from penstock.serve.decode import ROWS_MAX, Decoder, Media, media_of
from penstock.spec import ClassName, Feature, Label, Spec

RICH = Spec(
    name="rich",
    task="multiclass",
    features={
        "price.eur/kg": Feature(type="number"),
        "weekend": Feature(type="boolean"),
        "seen": Feature(type="timestamp"),
        "city": Feature(type="category"),
        "embedding": Feature(type="vector", width=3),
        "note": Feature(type="text"),
    },
)
BINARY = Spec(name="two", task="binary", features={"x": Feature(type="number"), "y": Feature(type="number")})
REGRESSION = Spec(name="flow", task="regression", features={"x": Feature(type="number")})

rich = Decoder(RICH)
binary = Decoder(BINARY)
regression = Decoder(REGRESSION)
counts = Decoder(Spec(name="calls", task="counts", features={"x": Feature(type="number")}))


def example(decoder: Decoder, body: bytes, media: Media = Media.JSON):
    return decoder.decode(Kind.EXAMPLE, body, media, now=50.0)


def test_every_feature_type_lands_in_its_column():
    batch = example(
        rich,
        b'{"features": {"price.eur/kg": 2, "weekend": true, "seen": "1970-01-01T01:00:10+01:00", "city": "Ulm",'
        b' "embedding": [1, 2.5, -3], "note": "h\\u00e9"}, "label": "a", "id": "k", "time": 7, "source": "s"}',
    )
    assert batch.numbers.tolist() == [[2.0, 1.0, 10.0]]
    assert batch.vectors[0].tolist() == [[1.0, 2.5, -3.0]]
    assert batch.strings == (["Ulm"], ["hé"])
    assert (batch.labels, batch.ids, batch.sources, batch.times.tolist()) == (["a"], ["k"], ["s"], [7.0])


@pytest.mark.parametrize("absent", [b"{}", b'{"price.eur/kg": null, "seen": null, "city": null, "embedding": null}'])
def test_absent_and_null_are_missing(absent):
    batch = example(rich, b'{"features": ' + absent + b', "label": 1}')
    assert np.isnan(batch.numbers).all()
    assert np.isnan(batch.vectors[0]).all()
    assert batch.strings == ([None], [None])
    assert (batch.ids, batch.sources, batch.times.tolist()) == (None, None, [50.0])


def test_categories_and_classes_are_text_whatever_they_came_as():
    batch = example(
        rich,
        b'[{"features": {"city": 7}, "label": 7}, {"features": {"city": true}, "label": false},'
        b' {"features": {"city": "7"}, "label": "7"}]',
    )
    assert batch.strings[0] == ["7", "true", "7"]
    assert batch.labels == ["7", "false", "7"]


def test_the_default_source_is_for_those_who_name_none():
    rows, _ = binary.rows(
        Kind.EXAMPLE, b'[{"features":{},"label":1},{"features":{},"label":1,"source":"b"}]', Media.JSON
    )
    assert binary.batch(Kind.EXAMPLE, rows, 0.0, "a").sources == ["a", "b"]


@pytest.mark.parametrize(("said", "meant"), [("0", "0"), ("1", "1"), ("true", "1"), ("false", "0"), ('"1"', "1")])
def test_binary_labels_of_the_default_classes(said, meant):
    assert example(binary, b'{"features": {}, "label": ' + said.encode() + b"}").labels == [meant]


def test_binary_labels_of_declared_classes():
    spec = Spec(
        name="d", task="binary", features={"x": Feature(type="number")}, label=Label(classes=_classes("ham", "spam"))
    )
    decoder = Decoder(spec)
    assert example(decoder, b'{"features": {}, "label": "spam"}').labels == ["spam"]
    for label in (b"1", b"true", b'"Spam"'):
        with pytest.raises(BadEvent, match="'ham' and 'spam'"):
            example(decoder, b'{"features": {}, "label": ' + label + b"}")


def _classes(*names: str) -> tuple[ClassName, ...]:
    return tuple(ClassName(name) for name in names)


def test_ndjson_skips_blank_lines_and_names_the_line_at_fault():
    lines = b'{"features":{"x":1},"label":1}\n\n{"features":{"x":2},"label":0}\r\n'
    assert example(binary, lines, Media.NDJSON).numbers[:, 0].tolist() == [1.0, 2.0]
    with pytest.raises(BadEvent, match=r"^Line 4: feature 'x' should be a finite number, but is a string") as caught:
        example(binary, lines + b'{"features":{"x":"3"},"label":0}', Media.NDJSON)
    assert (caught.value.pointer, caught.value.row) == ("/2/features/x", 2)


@pytest.mark.parametrize(
    ("body", "pointer", "said"),
    [
        (b'{"features": {"price.eur/kg": "a"}, "label": 1}', "/features/price.eur~1kg", "a finite number"),
        (b'{"features": {"price.eur/kg": true}, "label": 1}', "/features/price.eur~1kg", "but is a boolean"),
        (b'{"features": {"price.eur/kg": NaN}, "label": 1}', "/features/price.eur~1kg", "is NaN"),
        (b'{"features": {"embedding": [1, Infinity, 2]}, "label": 1}', "/features/embedding/1", "is infinity"),
        (b'{"features": {"price.eur/kg": 1e999}, "label": 1}', "/features/price.eur~1kg", "out of range"),
        (b'{"features": {"embedding": [1, 2]}, "label": 1}', "/features/embedding", "a list of 3 finite numbers"),
        (b'{"features": {"embedding": [1, 2, "c"]}, "label": 1}', "/features/embedding/2", "but is a string"),
        (b'{"features": {"embedding": [1, 2, 1e39]}, "label": 1}', "/features/embedding/2", "3.4"),
        (b'{"features": {"weekend": 1}, "label": 1}', "/features/weekend", "true or false"),
        (b'{"features": {"city": 1.5}, "label": 1}', "/features/city", "a number with a fraction"),
        (b'{"features": {"note": 1}, "label": 1}', "/features/note", "a string, but is an integer"),
        (b'{"features": {"seen": "2020-01-01T00:00:00"}, "label": 1}', "/features/seen", "zone"),
        (b'{"features": {"citty": "Ulm"}, "label": 1}', "/features/citty", "did you mean 'city'"),
        (b'{"features": {}}', "/label", "'label' is missing"),
        (b'{"label": 1}', "/features", "'features' is missing"),
        (b'{"features": {}, "label": null}', "/label", "but is null"),
        (b'{"features": {}, "label": 1.5}', "/label", "a number with a fraction"),
        (b'{"features": {}, "label": ""}', "/label", "class"),
        (b'{"features": {}, "label": 1, "tiem": 3}', "/tiem", "did you mean 'time'"),
        (b'{"features": {}, "label": 1, "time": "now"}', "/time", "RFC 3339"),
        (b'{"features": {}, "label": 1, "id": 3}', "/id", "a string of 1 to 512"),
        (b'{"features": [], "label": 1}', "/features", "but is a list"),
        (b'[{"features": {}, "label": 1}, {"features": {"note": {}}, "label": 1}]', "/1/features/note", "an object"),
        (b"[7]", "/0", "should be a JSON object, but is an integer"),
    ],
)
def test_a_fault_names_its_field(body, pointer, said):
    with pytest.raises(BadEvent) as caught:
        example(rich, body)
    assert said in str(caught.value)
    assert caught.value.pointer == pointer
    assert caught.value.status == 422


@pytest.mark.parametrize(
    "body",
    [b"", b" \n", b"{", b'[{"features": {}, "label": "a"},', b"nul", b'{"features": {"note": "\xff"}, "label": 1}'],
)
def test_what_is_no_json_is_malformed(body):
    with pytest.raises(Malformed) as caught:
        example(rich, body)
    assert caught.value.status == 400


def test_all_faults_of_a_list_are_told_up_to_ten():
    good, bad = b'{"features":{"x":1},"label":1}', b'{"features":{"x":"a"},"label":1}'
    with pytest.raises(BadEvent) as caught:
        example(binary, b"[" + b",".join([good, bad, good, b'{"features":{},"label":9}'] + [bad] * 20) + b"]")
    assert caught.value.row == 1
    assert [other.row for other in caught.value.others] == list(range(3, 12))


def test_an_unknown_binary_class_among_good_ones_is_named():
    with pytest.raises(BadEvent, match="Event 1: the label should be one of the classes '0' and '1', not 2") as caught:
        example(binary, b'[{"features":{},"label":1},{"features":{},"label":2}]')
    assert caught.value.pointer == "/1/label"


def test_an_empty_list_and_too_long_a_list_are_refused():
    with pytest.raises(BadEvent, match="no event"):
        example(binary, b"[]")
    many = b'{"features":{},"label":1}\n' * (ROWS_MAX + 1)
    with pytest.raises(TooLarge):
        example(binary, many, Media.NDJSON)


def test_regression_labels_are_finite_numbers():
    assert example(regression, b'{"features": {"x": 1}, "label": -2.5}').labels.tolist() == [-2.5]
    for label in (b"1e999", b"NaN", b"true", b'"3"'):
        with pytest.raises(BadEvent) as caught:
            example(regression, b'{"features": {"x": 1}, "label": ' + label + b"}")
        assert caught.value.pointer == "/label"


def test_counts_are_whole_and_not_negative():
    body = (
        b'[{"features": {}, "label": 0}, {"features": {}, "label": 3.0}, {"features": {}, "label": 9007199254740992}]'
    )
    assert example(counts, body).labels.tolist() == [0.0, 3.0, 2.0**53]
    for label in (b"-1", b"2.5", b"9007199254740994", b"1e300", b"true", b'"3"', b"null", b"[3]"):
        with pytest.raises(BadEvent, match="the label should be a count: a whole number, 0 or more") as caught:
            example(counts, b'[{"features": {}, "label": 1}, {"features": {}, "label": ' + label + b"}]")
        assert (caught.value.pointer, caught.value.row) == ("/1/label", 1)
    with pytest.raises(BadEvent, match="a count"):
        counts.decode(Kind.FEEDBACK, b'{"id": "p", "label": 0.5}', Media.JSON, now=0.0)


def test_what_is_asked_may_be_one_or_instances():
    one, single = binary.rows(Kind.PREDICTION, b'{"features": {"x": 1}, "id": "q"}', Media.JSON)
    assert (one[0].id, single) == ("q", True)
    body = b'{"instances": [{"features": {"x": 1}}, {"features": {"x": 2}, "time": 3}], "time": 9, "source": "s"}'
    many, single = binary.rows(Kind.PREDICTION, body, Media.JSON)
    batch = binary.batch(Kind.PREDICTION, many, 0.0)
    assert (batch.times.tolist(), batch.sources, batch.labels, single) == ([9.0, 3.0], ["s", "s"], None, False)


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"{}", "/features"),
        (b'{"instances": [{"features": {}}], "features": {}}', "/instances"),
        (b'{"instances": [{"features": {}}, {"features": {"x": "a"}}]}', "/instances/1/features/x"),
        (b'{"features": {}, "label": 1}', "/label"),
    ],
)
def test_what_is_asked_wrongly(body, pointer):
    with pytest.raises(BadEvent) as caught:
        binary.rows(Kind.PREDICTION, body, Media.JSON)
    assert caught.value.pointer == pointer


def test_feedback_needs_an_id_and_a_label_and_has_no_features():
    batch = binary.decode(Kind.FEEDBACK, b'{"id": "0-1-0", "label": true}', Media.JSON, 1.0)
    assert (batch.ids, batch.labels, batch.numbers.shape) == (["0-1-0"], ["1"], (1, 0))
    for body, pointer in ((b'{"label": 1}', "/id"), (b'{"id": "a"}', "/label")):
        with pytest.raises(BadEvent) as caught:
            binary.decode(Kind.FEEDBACK, body, Media.JSON, 1.0)
        assert caught.value.pointer == pointer


def test_numbers_keep_64_bits():
    value = 0.1 + 0.2
    batch = example(binary, b'{"features": {"x": 0.30000000000000004, "y": 9007199254740993}, "label": 1}')
    assert batch.numbers[0].tolist() == [value, float(2**53)]
    assert math.isfinite(value)


@pytest.mark.parametrize(
    ("header", "media"),
    [
        ("application/json; charset=utf-8", Media.JSON),
        ("APPLICATION/X-NDJSON", Media.NDJSON),
        ("application/vnd.apache.arrow.stream", Media.ARROW),
        ("", Media.JSON),
    ],
)
def test_content_types(header, media):
    assert media_of(header) is media


def test_another_content_type_is_refused():
    with pytest.raises(UnsupportedMedia, match="text/csv"):
        media_of("text/csv")


def test_feedback_may_take_a_label_back():
    body = b'[{"id": "p", "retract": true}, {"id": "q", "label": 1}, {"id": "r", "label": null, "retract": true}]'
    assert binary.decode(Kind.FEEDBACK, body, Media.JSON, 1.0).labels == [None, "1", None]
    assert rich.decode(Kind.FEEDBACK, body, Media.JSON, 1.0).labels == [None, "1", None]
    numbers = regression.decode(Kind.FEEDBACK, body, Media.JSON, 1.0).labels
    assert np.isnan(numbers).tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("body", "pointer", "said"),
    [
        (b'{"id": "p"}', "/label", "'label' is missing; to take a label back, send 'retract': true"),
        (b'{"id": "p", "label": null}', "/label", "'label' is missing"),
        (b'[{"id": "p", "label": 1}, {"id": "q", "retract": false}]', "/1/label", "Event 1: 'label' is missing"),
        (b'{"id": "p", "label": 1, "retract": true}', "/label", "leave one of the two out"),
        (b'{"id": "p", "retract": "yes"}', "/retract", "'retract' should be true or false, but is a string"),
        (b'[{"id": "p", "retract": true}, {"id": "q", "label": "no"}]', "/1/label", "one of the classes '0' and '1'"),
    ],
)
def test_feedback_has_a_label_or_takes_one_back(body, pointer, said):
    with pytest.raises(BadEvent) as caught:
        binary.decode(Kind.FEEDBACK, body, Media.JSON, 1.0)
    assert said in str(caught.value)
    assert caught.value.pointer == pointer


def test_a_line_that_lacks_its_label_is_named():
    with pytest.raises(BadEvent, match=r"^Line 3: 'label' is missing"):
        regression.decode(Kind.FEEDBACK, b'{"id":"a","label":1}\n\n{"id":"b"}', Media.NDJSON, 1.0)
    with pytest.raises(BadEvent, match="there is no field 'retract' here"):
        example(binary, b'{"features": {}, "retract": true}')


OWNED = Spec(name="o", task="binary", features={"user_id": Feature(type="category")}, subject="user_id")


def test_an_event_says_whose_it_is_in_a_field_or_by_the_feature_that_the_service_names():
    body = b'[{"features": {"user_id": 7}, "label": 1}, {"features": {}, "label": 0, "subject": "u"}]'
    assert example(Decoder(OWNED), body).subjects == ["7", "u"]
    assert example(binary, b'{"features": {}, "label": 1}').subjects is None
    rows, _ = binary.rows(Kind.PREDICTION, b'{"instances": [{"features": {}}], "subject": "u"}', Media.JSON)
    assert binary.batch(Kind.PREDICTION, rows, 0.0).subjects == ["u"]
    told = binary.decode(Kind.FEEDBACK, b'{"id": "a", "label": 1, "subject": "u"}', Media.JSON, 0.0)
    assert told.subjects == ["u"]
    with pytest.raises(BadEvent, match="'subject' should be a string of 1 to 512 characters, but is an integer"):
        example(binary, b'{"features": {}, "label": 1, "subject": 7}')


# What another system answered --------------------------------------------------------------------------------------

several = Decoder(Spec(name="tags", task="multilabel", features={"x": Feature(type="number")}))


@pytest.mark.parametrize(
    ("decoder", "label", "said", "kept"),
    [
        (binary, b"1", b"true", "1"),
        (binary, b"1", b'"perhaps"', "perhaps"),
        (binary, b"1", b'{"0": 0.25, "1": 0.75}', {"0": 0.25, "1": 0.75}),
        (rich, b'"a"', b'{"a": 0.3333, "b": 0.6671}', {"a": 0.3333, "b": 0.6671}),
        (rich, b'"a"', b"7", "7"),
        (several, b'["a"]', b'["b", 3, "b"]', ("3", "b")),
        (regression, b"2", b"3", 3.0),
        (counts, b"2", b"-0.5", -0.5),
    ],
)
def test_what_another_system_answered_is_kept_beside_the_label(decoder, label, said, kept):
    event = b'{"features": {}, "label": ' + label + b', "incumbent": ' + said + b"}"
    feedback = b'{"id": "a", "label": ' + label + b', "incumbent": ' + said + b"}"
    assert example(decoder, event).incumbents == [kept]
    assert decoder.decode(Kind.FEEDBACK, feedback, Media.JSON, 1.0).incumbents == [kept]
    none = example(decoder, b'{"features": {}, "label": ' + label + b', "incumbent": null}')
    assert none.incumbents is None


@pytest.mark.parametrize(
    ("decoder", "label", "said", "told"),
    [
        (binary, b"1", b"0.7", "a class .* or the chances of classes"),
        (binary, b"1", b"[1]", "but is a list"),
        (binary, b"1", b'{"0": 0.5, "1": 0.9}', "adds up to 1.4"),
        (binary, b"1", b'{"0": 20, "1": 80}', "<= 1.0"),
        (binary, b"1", b'{"0": -0.1}', ">= 0.0"),
        (binary, b"1", b"{}", "names no class"),
        (binary, b"1", b'""', "length >= 1"),
        (several, b'["a"]', b'{"a": 1}', "a list of classes"),
        (regression, b"2", b'"3"', "a finite number, but is a string"),
        (regression, b"2", b"NaN", "'incumbent' is NaN"),
    ],
)
def test_a_wrong_answer_of_another_system_is_refused_by_its_name(decoder, label, said, told):
    event = b'{"features": {}, "label": ' + label + b', "incumbent": ' + said + b"}"
    with pytest.raises(BadEvent, match=told) as raised:
        example(decoder, event)
    assert raised.value.pointer.startswith("/incumbent")
    with pytest.raises(BadEvent, match=told) as raised:
        example(decoder, b"[" + b'{"features": {}, "label": ' + label + b"}," + event + b"]")
    assert (raised.value.pointer.startswith("/1/incumbent"), raised.value.row) == (True, 1)


def test_what_another_system_answered_may_be_said_with_the_question():
    one = binary.decode(Kind.PREDICTION, b'{"features": {}, "incumbent": true}', Media.JSON, 1.0)
    assert one.incumbents == ["1"]
    many = b'{"instances": [{"features": {}}, {"features": {}, "incumbent": {"0": 1}}]}'
    assert binary.decode(Kind.PREDICTION, many, Media.JSON, 1.0).incumbents == [None, {"0": 1.0}]
    with pytest.raises(BadEvent, match="not both"):
        binary.decode(Kind.PREDICTION, b'{"instances": [{"features": {}}], "incumbent": 1}', Media.JSON, 1.0)
