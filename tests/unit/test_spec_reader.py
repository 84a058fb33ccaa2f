"""What the reader of service files says of right ones and wrong ones."""

from __future__ import annotations

import math

import pytest

from penstock.errors import SpecInvalid
from penstock.spec import Feature, Learn
from penstock.specfile.reader import Service, loads
from penstock.specfile.writer import dump, spec_hash

RIGHT = """\
name: fraud
task: binary
features:
  amount: number
  pixels: vector[64]
  city: {type: category, buckets: 64}
label:
  name: is_fraud
  classes: [no, 007]
  wait: 1h
learn:
  half_lives: [16, 1_000, inf]
  checkpoint_every: 500ms
serve:
  body_max: 1.5MiB
budget:
  log_max_age: 90d
"""


def faults(text: str) -> list[str]:
    with pytest.raises(SpecInvalid) as caught:
        loads(text, "s.yaml")
    return [str(fault) for fault in caught.value.faults]


def test_a_right_file_is_read_with_its_units_and_shorthands() -> None:
    spec = loads(RIGHT)
    assert spec.features == {
        "amount": Feature(type="number"),
        "pixels": Feature(type="vector", width=64),
        "city": Feature(type="category", buckets=64),
    }
    assert spec.label.classes == ("no", "007")
    assert spec.label.wait_s == 3600.0
    assert spec.learn.half_lives == (16.0, 1000.0, math.inf)
    assert spec.learn.checkpoint_every_s == 0.5
    assert spec.serve.body_max_bytes == 1_572_864
    assert spec.budget.log_max_age_s == 90 * 86400.0
    assert spec.learn.step_max == Learn().step_max


def test_every_fault_is_reported_at_once_with_its_place_and_a_suggestion() -> None:
    text = """\
name: a b
task: binry
features:
  price: numbr
  id: number
  x: {type: category, bucket: 4}
  empty:
label:
  wait_s: 3
  classes: [1, 2, 3]
learn:
  half_lifes: [1, inf]
  half_lives: [1, -2]
  alpha: 0.1
  step_max: 1.5
gate: {alpha: 1.5}
gate: {}
budget: {log_max: 10Gb}
"""
    allowed = "letters, digits, '-' and '_' (63 at most, the first a letter or digit)"
    units = "units are written in the value, as in wait: 30s"
    types = "number, category, boolean, vector, text, timestamp"
    assert faults(text) == [
        f"s.yaml:1:7: name: may hold only {allowed}, not 'a b'",
        "s.yaml:2:7: task: must be one of binary, counts, multiclass, multilabel, regression; not 'binry' (did you "
        "mean 'binary'?)",
        f"s.yaml:4:10: features.price: must be one of {types}; not 'numbr' (did you mean 'number'?)",
        "s.yaml:5:7: features.id: is a field of every event, not a feature; give the feature another name",
        "s.yaml:6:23: features.x.bucket: unknown field (did you mean 'buckets'?)",
        f"s.yaml:7:9: features.empty: a type is expected here ({types}), not nothing",
        f"s.yaml:9:3: label.wait_s: unknown field (did you mean 'wait'? {units})",
        "s.yaml:12:3: learn.half_lifes: unknown field (did you mean 'half_lives'?)",
        "s.yaml:13:19: learn.half_lives[1]: must be above 0, not '-2'",
        "s.yaml:14:3: learn.alpha: unknown field here (it belongs under 'gate')",
        "s.yaml:15:13: learn.step_max: a whole number is expected here, not '1.5'",
        "s.yaml:16:15: gate.alpha: must be above 0 and below 1, not '1.5'",
        "s.yaml:17:1: gate: is there twice, first on line 16",
        "s.yaml:18:19: budget.log_max: a size such as 8MiB is expected here, not '10Gb'",
    ]


HEAD = "name: a\ntask: {task}\nfeatures: {{x: number}}\n"


@pytest.mark.parametrize(
    ("task", "rest", "fault"),
    [
        ("binary", "label: {classes: [a, b, c]}", "4:18: label.classes: a binary task has exactly two classes, not 3"),
        ("binary", "label: {classes: [a]}", "4:18: label.classes: a binary task has exactly two classes, not 1"),
        ("multiclass", "label: {classes: [a, 'a']}", "4:18: label.classes: holds one class twice"),
        ("regression", "label: {classes: [a, b]}", "4:18: label.classes: a regression has no classes"),
        ("counts", "label: {classes: [a, b]}", "4:18: label.classes: counts have no classes"),
        ("regression", "label: {name: time}", "4:15: label.name: 'time' is a field of every event already"),
        (
            "regression",
            "label: {name: x}",
            "3:15: features.x: is the label; a model that is given its answer as a feature learns nothing",
        ),
        ("regression", "label: {wait: 1e400h}", "4:15: label.wait: must be finite, not '1e400h'"),
        ("regression", "label: {wait: 5 parsecs}", "label.wait: a duration such as 30s, 1h or 30d is expected here"),
        ("regression", "label: {wait: 0s}", "4:15: label.wait: must be above 0s, not '0s'"),
        ("regression", "learn: {half_lives: []}", "4:21: learn.half_lives: takes 1 to 16 values, not 0"),
        ("regression", "learn: {half_lives: 7}", "4:21: learn.half_lives: a list is expected here, such as [1, 2]"),
        ("regression", "learn: {half_lives: [7, 7.0]}", "4:21: learn.half_lives: holds one half-life twice"),
        ("regression", "serve: {quantiles: [0.5, 0.1]}", "4:20: serve.quantiles: must ascend, such as [0.1, 0.5, 0.9]"),
        (
            "regression",
            "serve: {quantiles: [0, 0.1]}",
            "4:21: serve.quantiles[0]: must be above 0 and below 1, not '0'",
        ),
        ("binary", "serve: {quantiles: [0.5]}", "serve.quantiles: are of numbers, and this task's answer is a class"),
        ("regression", "label: {ids_window: 0}", "4:21: label.ids_window: must be at least 1000 and at most 1000000"),
        (
            "regression",
            "label: {ids_window: 2000000}",
            "4:21: label.ids_window: must be at least 1000 and at most 1000000",
        ),
        ("regression", "learn: {seed: '7'}", "4:15: learn.seed: a whole number is expected here, not '7'"),
        ("regression", "learn: {seed: 1__0}", "4:15: learn.seed: a whole number is expected here, not '1__0'"),
        ("regression", "learn: {seed: nan}", "4:15: learn.seed: a whole number is expected here, not 'nan'"),
        ("regression", f"learn: {{seed: {'9' * 5000}}}", "4:15: learn.seed: a whole number is expected here"),
        ("regression", "learn: [seed]", "4:8: learn: a mapping of settings is expected here, not a list"),
        ("regression", "gate: {alpha: }", "4:15: gate.alpha: has no value"),
        ("regression", "label: {name: {a: b}}", "4:15: label.name: text is expected here, not a mapping"),
        ("regression", "? [a]\n: b\n", "4:3: a name is expected before the colon, not a list"),
        ("regression", '"na\\u0007": 3', "4:1: na\\x07: unknown field"),
    ],
)
def test_values_that_cannot_be_are_named_with_their_place(task: str, rest: str, fault: str) -> None:
    (found,) = faults(HEAD.format(task=task) + rest)
    assert fault in found


def test_slices_that_cannot_be_are_all_named_with_their_places() -> None:
    text = """\
name: s
task: binary
features: {city: category, new: boolean, price: number, note: text}
gate:
  slices: [city, town,
    price, note, city]
"""
    assert faults(text) == [
        "s.yaml:5:11: gate.slices: are looked at by anchors, and there are none; set gate.anchors, such as 256",
        "s.yaml:5:11: gate.slices: names one feature twice",
        "s.yaml:5:18: gate.slices[1]: 'town' is no feature; there are city, new, price, note",
        "s.yaml:6:5: gate.slices[2]: 'price' is a number, and slices are values of a category or a boolean",
        "s.yaml:6:12: gate.slices[3]: 'note' is a text, and slices are values of a category or a boolean",
    ]
    right = text.replace("town,\n    price, note, city", "new").replace("slices:", "anchors: 256\n  slices:")
    assert loads(right).gate.slices == ("city", "new")


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        ("vector", "a vector needs its width: vector[64]"),
        ("{type: number, width: 3}", "width belongs to vectors, not to number"),
        ("{type: number, buckets: 3}", "buckets belong to category and text, not to number"),
        ("vector[0]", "the width of a vector must be at least 1"),
        ("{type: text, buckets: 1}", "must be at least 2 and at most 65536"),
        ("{buckets: 4}", "features.f.type: is missing"),
    ],
)
def test_features_that_cannot_be_are_refused(feature: str, message: str) -> None:
    (found,) = faults(f"name: a\ntask: regression\nfeatures:\n  f: {feature}\n")
    assert message in found


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "s.yaml:1:1: the file is empty"),
        ("# only words\n", "s.yaml:1:1: the file is empty"),
        ("- a\n- b\n", "s.yaml:1:1: a mapping of settings is expected here, not a list"),
        ("just words", "s.yaml:1:1: a mapping of settings is expected here, not 'just words'"),
        ("name: a\nfeatures:\n\tx: number\n", "s.yaml:3:1: not YAML: a tab is used for indentation"),
        ("name: a\nfeatures: {x: number\n", "s.yaml:3:1: not YAML: "),
        ("name: a\n  task: b\n", "s.yaml:2:7: not YAML: mapping values are not allowed"),
        ("a: &a [x, x]\nb: *a\n", "s.yaml:1:4: aliases (& and *) are not accepted"),
        ("a: !!python/object:os.system x\n", "s.yaml:1:4: tags are not accepted"),
        (HEAD.format(task="binary") + "---\nname: b\n", "s.yaml:4:1: a second document begins here"),
        ("a: " + "[" * 100_000, "levels deep"),
        ("name: a\0b", "s.yaml:"),
    ],
)
def test_what_is_no_service_file_is_refused_where_it_goes_wrong(text: str, fault: str) -> None:
    (found, *_) = faults(text)
    assert fault in found


def test_what_is_missing_is_named() -> None:
    assert faults("label: {}") == [f"s.yaml:1:1: {field}: is missing" for field in ("name", "task", "features")]


def test_a_service_in_python_has_the_settings_and_the_faults_of_the_file() -> None:
    in_python = Service(
        name="fraud",
        task="binary",
        features={"amount": "number", "pixels": "vector[64]", "city": Feature(type="category", buckets=64)},
        label={"name": "is_fraud", "classes": ["no", "007"], "wait": "1h"},
        learn=Learn(half_lives=(16, 1000, math.inf), checkpoint_every_s=0.5),
        serve={"body_max": 1_572_864},
        budget={"log_max_age": "90d"},
    )
    assert in_python == loads(RIGHT)
    assert spec_hash(in_python) == spec_hash(loads(RIGHT))
    with pytest.raises(SpecInvalid) as caught:
        Service(name="a", task="regresion", features={"x": 3}, learn={"half_lifes": [1]})  # type: ignore[arg-type,dict-item]
    assert [str(fault).partition(" (")[0] for fault in caught.value.faults] == [
        "Service: task: must be one of binary, counts, multiclass, multilabel, regression; not 'regresion'",
        "Service: features.x: must be one of number, category, boolean, vector, text, timestamp; not '3'",
        "Service: learn.half_lifes: unknown field",
    ]


def test_classes_are_named_as_json_writes_them() -> None:
    spec = Service(name="a", task="binary", features={"x": "number"}, label={"classes": [False, 1]})
    assert spec.label.classes == ("false", "1")
    assert loads(dump(spec)) == spec


def test_the_hash_ignores_comments_and_units_and_sees_every_setting() -> None:
    text = HEAD.format(task="regression")
    same = loads(text + "# a comment\nlabel: {wait: 60m}\n")
    assert spec_hash(same) == spec_hash(loads(text))
    assert spec_hash(loads(text + "label: {wait: 61m}\n")) != spec_hash(same)


def test_a_number_may_be_left_to_a_word() -> None:
    text = "name: s\ntask: binary\nfeatures: {x: number}\nlearn:\n  random_features: "
    assert loads(text + "auto").learn.random_features == "auto"
    assert loads(text + "64").learn.random_features == 64
    assert faults(text + "atuo") == [
        "s.yaml:5:20: learn.random_features: must be a number or auto; not 'atuo' (did you mean 'auto'?)"
    ]
    assert faults(text + "-1")[0].startswith("s.yaml:5:20: learn.random_features: must be")
