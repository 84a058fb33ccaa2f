"""Whatever a Spec says, its text says too."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import inspect

from penstock.cli.starter import EXAMPLE, explanations, starter
from penstock.errors import SpecInvalid
from penstock.spec import NUMBER_TASKS, Feature, Spec
from penstock.specfile.contradictions import contradictions
from penstock.specfile.quantities import setting_name
from penstock.specfile.reader import loads, read
from penstock.specfile.writer import dump
from penstock.specfile.writer import settings as plain

printable = st.characters(exclude_categories=["C", "Z"], include_characters=" ")
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", fullmatch=True)
tricky = st.sampled_from(
    ["yes", "null", "~", "1e5", "0x1", " a ", "a: b", "#a", "'", '"', "\\", "5 ", "inf", "1:30", "😀"]
)
words = st.one_of(st.text(printable, min_size=1, max_size=20), tricky)
features = st.one_of(
    st.sampled_from(["number", "boolean", "timestamp", "category", "text"]).map(lambda kind: Feature(type=kind)),  # type: ignore[arg-type]
    st.integers(1, 65_536).map(lambda width: Feature(type="vector", width=width)),
    st.integers(2, 65_536).map(lambda buckets: Feature(type="category", buckets=buckets)),
    st.floats(-1e300, 1e300).map(lambda low: Feature(type="number", min=low, max=low + 1)),
    st.lists(words, min_size=1, max_size=5, unique=True).map(lambda v: Feature(type="category", values=tuple(v))),
)
members = st.lists(
    st.sampled_from(
        [
            "river.tree.HoeffdingTreeClassifier",
            "river.forest.ARFClassifier(n_models=3, leaf_prediction='nb', seed=-1)",
            'river.compose.Select("a: b", "# c") | river.linear_model.LogisticRegression({"l2": 0.1})',
            "sklearn.naive_bayes.GaussianNB(priors=[0.5, 0.5])",
            "models/a fraud.onnx",
        ]
    ),
    unique=True,
).map(tuple)

chosen: dict[str, st.SearchStrategy[Any]] = {
    "members": members,
    "openlineage": st.sampled_from(["", "http://a:5000/b?c", "file:/a b.json"]),
    "alert_webhook": st.sampled_from(["", "http://a:5000/b?c", "https://a.b/"]),
    "min": st.none() | st.floats(-1e300, 0.0),
    "max": st.none() | st.floats(0.0, 1e300),
}
"""What has a form of its own, or must fit to others."""


def values_of(kind: inspect.Type, *, infinite: bool = False) -> st.SearchStrategy[Any]:
    """Every value that the type and its limits allow."""
    match kind:
        case inspect.Metadata(type=inner, extra=extra):
            return values_of(inner, infinite=bool(extra and extra.get("infinite")))
        case inspect.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: chosen.get(field.name, values_of(field.type)) for field in fields})
        case inspect.UnionType(types=kinds):
            return st.one_of([values_of(kind, infinite=infinite) for kind in kinds])
        case inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case inspect.VarTupleType(item_type=item):
            least, most = kind.min_length or 0, kind.max_length or 5
            return st.lists(values_of(item), min_size=least, max_size=most, unique=True).map(tuple)
        case inspect.NoneType():
            return st.none()
        case inspect.IntType(gt=gt, ge=ge, lt=lt, le=le):
            top = le if le is not None else (lt or 2**63) - 1
            return st.integers(ge if ge is not None else gt, top)  # type: ignore[arg-type]
        case inspect.FloatType(gt=gt, ge=ge, lt=lt, le=le):
            low, high = gt if gt is not None else ge, lt if lt is not None else le
            outside = {"exclude_min": gt is not None, "exclude_max": lt is not None}
            return st.floats(low, high, allow_nan=False, allow_infinity=infinite and high is None, **outside)
        case inspect.StrType():
            return names if kind.pattern else words
        case inspect.DictType():
            return st.dictionaries(words, features, min_size=1, max_size=4)
    raise TypeError(kind)


def fitting(spec: Spec) -> Spec:
    """The same with settings that fit together, of which few would by chance: labels of classes have no bounds,
    numbers no classes, two classes are two, one that is taken for granted is among them, quantiles ascend, and slices
    are of features, and looked at."""
    replace, label, learn, serve, gate = msgspec.structs.replace, spec.label, spec.learn, spec.serve, spec.gate
    sliceable = tuple(name for name, feature in spec.features.items() if feature.type in ("category", "boolean"))
    gate = replace(gate, slices=sliceable if gate.slices and gate.anchors else ())
    if spec.task in NUMBER_TASKS:
        label, serve = replace(label, classes=()), replace(serve, quantiles=tuple(sorted(serve.quantiles)))
    else:
        label, serve = replace(label, min=None, max=None), replace(serve, quantiles=())
    if spec.task == "binary" and label.classes:
        label = replace(label, classes=(*label.classes, "another", "third")[:2])
    if spec.task != "multiclass":
        is_named = label.implicit and spec.task == "binary" and label.classes
        label = replace(label, implicit=label.classes[1] if is_named else None)
    if spec.task in ("counts", "multilabel"):
        learn = replace(learn, members=())
    return replace(spec, label=label, learn=learn, serve=serve, gate=gate)


specs = values_of(inspect.type_info(Spec)).map(fitting).filter(lambda spec: not list(contradictions(spec)))


@given(specs)
@settings(max_examples=150)
def test_a_dumped_spec_is_read_back_equal(spec: Spec) -> None:
    assert loads(dump(spec)) == spec
    assert read(msgspec.json.decode(msgspec.json.encode(plain(spec)))) == spec


lines = st.lists(
    st.one_of(
        st.sampled_from(["name: a", "task: binary", "features:", "  x: number", "label: {wait: 1h}", "- x", "\t"]),
        st.text(max_size=20),
        st.from_regex(r" {0,4}[a-z]{1,5}: ?[-\[\]{}&*!|>'\"%@a-z0-9,]{0,8}", fullmatch=True),
    ),
    max_size=8,
).map("\n".join)


@given(lines)
@settings(max_examples=300)
def test_any_text_is_a_service_or_a_list_of_faults(text: str) -> None:
    try:
        loads(text)
    except SpecInvalid as error:
        faults = error.faults
    else:
        return
    assert faults
    assert all(fault.line >= 1 and fault.column >= 1 and fault.message for fault in faults)


def test_the_starter_file_shows_every_setting_with_its_default_and_its_reason() -> None:
    text = starter(EXAMPLE)
    assert loads(text) == EXAMPLE
    shown = re.sub(r"^  #(?=[a-z_]+: )", "  ", text, flags=re.MULTILINE)
    assert loads(shown.replace("classes: []", "classes: [no, yes]")).label.classes == ("no", "yes")
    assert loads(shown) == EXAMPLE
    for section in ("label", "learn", "gate", "serve", "budget"):
        struct = getattr(EXAMPLE, section)
        for field in struct.__struct_fields__:
            reason = explanations()[type(struct).__name__].get(field)
            assert reason, f"{section}.{field} has no docstring, so its owner learns nothing of it"
            assert f"  {setting_name(field)}: " in shown
