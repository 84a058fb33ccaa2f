"""Bases on disk: found by id, the same for every row whatever stands beside it, and never half of one."""

from __future__ import annotations

import builtins
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from penstock.errors import BaseMissing, LibraryMissing, TrainingFailed
from penstock.events import Batch, Kind
from penstock.learn.fast.encode import Encoder
from penstock.learn.inputs import Seen, seen_of
from penstock.learn.slow.artifact import Artifact, BaseManifest, read_artifact, sealed, write_artifact
from penstock.learn.slow.base import SHAPES, LocalBases, MemoryBases, OnnxBase
from penstock.learn.slow.reservoir import Reservoir
from penstock.learn.slow.train import Training, train_base
from penstock.spec import ClassName, Consolidate, Feature, Spec

FEATURES = {"x": Feature(type="number"), "v": Feature(type="vector", width=5)}
SPEC = Spec(name="base", task="multiclass", features=FEATURES)
INPUTS, WIDTH, CLASSES = 6, 37, 3


def network(seed: int = 0, across_rows: bool = False) -> bytes:
    """A layer of odd width, so that vectors of the processor do not end where rows do."""
    rng = np.random.default_rng(seed)

    def constant(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name)

    nodes = [
        helper.make_node("Gemm", ["inputs", "w", "b"], ["sums"]),
        helper.make_node("Erf", ["sums"], ["features" if not across_rows else "inner"]),
        helper.make_node("MatMul", ["features", "u"], ["outputs"]),
    ]
    if across_rows:
        nodes.insert(2, helper.make_node("CumSum", ["inner", "axis"], ["features"]))
    graph = helper.make_graph(
        nodes,
        "base",
        [helper.make_tensor_value_info("inputs", TensorProto.FLOAT, ["rows", INPUTS])],
        [
            helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", WIDTH]),
            helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["rows", CLASSES]),
        ],
        [
            constant("w", INPUTS, WIDTH),
            constant("b", WIDTH),
            constant("u", WIDTH, CLASSES),
            numpy_helper.from_array(np.array(0, np.int64), "axis"),
        ],
    )
    written: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    ).SerializeToString()
    return written


def artifact(seed: int = 0, across_rows: bool = False, seen: Seen | None = None) -> Artifact:
    encoder = Encoder(SPEC)
    encoder.absorb(events(200, seed))
    manifest = BaseManifest(
        kind="mlp",
        task="multiclass",
        features=FEATURES,
        classes=tuple(map(ClassName, "abc")),
        width=WIDTH,
        seed=seed,
        opset=18,
    )
    weights = {"weight/w": np.ones(3)}
    return sealed(manifest, network(seed, across_rows), encoder=encoder.save(), weights=weights, seen=seen)


def events(n: int, seed: int) -> Batch:
    rng = np.random.default_rng(seed)
    return Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(n),
        ids=None,
        sources=None,
        numbers=rng.normal(size=(n, 1)) * 10.0 ** rng.integers(-3, 4, (n, 1)),
        vectors=(rng.normal(size=(n, 5)).astype(np.float32),),
        strings=(),
        labels=None,
        versions=None,
    )


@settings(max_examples=40)
@given(n=st.integers(1, 300), seed=st.integers(0, 10**6), data=st.data())
def test_a_row_gets_the_same_bytes_whatever_rows_stand_beside_it(n: int, seed: int, data: st.DataObject) -> None:
    base = BASE
    batch = events(n, seed)
    whole = base.embed(batch)
    places = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20)))
    part = base.embed(batch.rows(places))
    assert part.features.tobytes() == whole.features[places].tobytes()
    assert whole.probabilities is not None
    assert part.probabilities is not None
    assert part.probabilities.tobytes() == whole.probabilities[places].tobytes()


def test_a_network_whose_answers_depend_on_other_rows_is_asked_row_by_row() -> None:
    base = OnnxBase(artifact(across_rows=True))
    batch = events(SHAPES[0] + 9, 3)
    one_by_one = [base.embed(batch.rows(slice(i, i + 1))).features for i in range(len(batch))]
    assert base.embed(batch).features.tobytes() == np.concatenate(one_by_one).tobytes()


def test_answers_are_those_of_the_network_on_the_frozen_statistics() -> None:
    made = artifact()
    base = OnnxBase(made)
    batch = events(100, 1)
    encoder = Encoder(SPEC)
    encoder.load(made.statistics())
    weights = {w.name: numpy_helper.to_array(w) for w in onnx.load_from_string(made.network).graph.initializer}
    from math import erf

    sums = encoder.encode(batch).astype(np.float32) @ weights["w"] + weights["b"]
    wanted = np.vectorize(erf)(sums)
    said = base.embed(batch)
    np.testing.assert_allclose(said.features, wanted, atol=1e-5)
    assert said.probabilities is not None
    np.testing.assert_allclose(said.probabilities.sum(axis=1), 1.0)
    raw = wanted @ weights["u"]
    assert (said.probabilities.argmax(axis=1) == raw.argmax(axis=1)).all()
    assert base.embed(batch.rows(slice(0, 0))).features.shape == (0, WIDTH)


BASE = OnnxBase(artifact())


def test_a_base_is_found_again_under_the_id_of_its_contents(tmp_path: Path) -> None:
    made = artifact()
    bases = LocalBases(tmp_path / "bases")
    put = bases.put(made)
    assert bases.ids() == [made.id] == [put.id]
    assert bases(made.id) is bases(made.id)
    again = LocalBases(tmp_path / "bases")(made.id)
    batch = events(20, 5)
    assert again.embed(batch).features.tobytes() == put.embed(batch).features.tobytes()
    assert again.artifact.parameters()["weight/w"].tolist() == [1, 1, 1]
    assert write_artifact(tmp_path / "bases", made) == tmp_path / "bases" / made.id


def test_everything_that_answers_depend_on_is_in_the_id() -> None:
    made = artifact()
    others = [
        artifact(seed=1),
        sealed(made.manifest, network(1), encoder=made.statistics(), weights=made.parameters()),
        sealed(
            msgspec.structs.replace(made.manifest, classes=tuple(map(ClassName, "acb"))),
            made.network,
            encoder=made.statistics(),
            weights=made.parameters(),
        ),
        sealed(made.manifest, made.network, encoder=artifact(2).statistics(), weights=made.parameters()),
    ]
    assert len({made.id, *(other.id for other in others)}) == 5
    assert artifact().id == made.id


def test_what_it_was_trained_on_is_kept_with_it_and_one_that_does_not_say_keeps_its_name(tmp_path: Path) -> None:
    seen = seen_of(SPEC, events(300, 1), events(300, 2))
    made, silent = artifact(seen=seen), artifact()
    bases = LocalBases(tmp_path)
    for one in (made, silent):
        bases.put(one)
    assert LocalBases(tmp_path).seen(made.id) == seen
    assert LocalBases(tmp_path).seen(silent.id) is None
    # The id of this base before any said what they were trained on.
    assert silent.id == "a1913f1a90f8085fa4bf5b45906217eef813c425701f00b16e6aa15e16ec7ae4"
    assert made.id != silent.id


def test_what_it_was_trained_on_in_a_later_format_is_refused() -> None:
    seen = seen_of(SPEC, events(300, 1), events(300, 2))
    assert seen is not None
    later = artifact(seen=msgspec.structs.replace(seen, format=2))
    with pytest.raises(BaseMissing, match="format 2 of what it was trained on is not known"):
        later.trained_on()


@pytest.mark.parametrize(
    "name", ["base.onnx", "encoder.safetensors", "weights.safetensors", "seen.json", "manifest.json"]
)
@pytest.mark.parametrize("damage", [lambda p: p.unlink(), lambda p: p.write_bytes(p.read_bytes()[:-9] + b"x" * 9)])
def test_a_damaged_base_is_missing_and_written_anew(tmp_path: Path, name: str, damage: Callable[[Path], Any]) -> None:
    made = artifact(seen=seen_of(SPEC, events(300, 1), events(300, 2)))
    place = write_artifact(tmp_path, made)
    damage(place / name)
    with pytest.raises(BaseMissing, match=made.id):
        LocalBases(tmp_path)(made.id)
    write_artifact(tmp_path, made)
    assert read_artifact(tmp_path, made.id) == made


def test_a_base_that_is_nowhere_is_missing(tmp_path: Path) -> None:
    for bases in (LocalBases(tmp_path), MemoryBases()):
        with pytest.raises(BaseMissing, match="abc"):
            bases("abc")


def test_a_network_that_is_no_onnx_is_missing() -> None:
    made = artifact()
    with pytest.raises(BaseMissing, match="cannot read its network"):
        OnnxBase(sealed(made.manifest, b"nonsense", encoder=made.statistics(), weights={}))


def test_without_onnx_runtime_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name == "onnxruntime":
            raise ImportError(name)
        return whole(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(LibraryMissing, match="onnxruntime") as raised:
        OnnxBase(artifact())
    assert raised.value.advice == "pip install 'penstock[learn]'"


def frozen_file(path: Path, width: int, rows: str | int = "rows") -> Path:
    """A network that gives the squares of sums, (n, width), some of them of a wild size."""
    rng = np.random.default_rng(0)
    weights = (rng.normal(size=(INPUTS, width)) * 10.0 ** rng.integers(-2, 3, width)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["features", "w"], ["sums"]),
            helper.make_node("Mul", ["sums", "sums"], ["outputs"]),
        ],
        "users",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, [rows, INPUTS])],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, [rows, width])],
        [numpy_helper.from_array(weights, "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


@pytest.mark.parametrize(("width", "rows"), [(40, "rows"), (200, "rows"), (40, 1)])
def test_a_frozen_network_gives_its_features_at_unit_size_and_an_output_layer_is_trained_on_them(
    tmp_path: Path, width: int, rows: str | int
) -> None:
    path = frozen_file(tmp_path / "users.onnx", width, rows)
    service = Spec(name="s", task="binary", features=FEATURES, consolidate=Consolidate(base=str(path), replay=400))
    batch = events(1500, 4)
    far = np.square(batch.vectors[0]).sum(axis=1) > 4.35
    batch = replace(batch, labels=[ClassName(str(int(f))) for f in far], numbers=np.clip(batch.numbers, -1, 1))
    reservoir = Reservoir(service)
    reservoir.add(batch)
    trained = train_base(service, reservoir, training=Training(steps_max=300))
    assert trained is not None
    base = LocalBases(tmp_path).put(trained.artifact)
    said = base.embed(batch)
    # Squares of sums of six numbers lie in 21 dimensions, however many there are.
    assert base.width == (21 if width == 200 else width)
    assert 0.8 < said.features.std() < 1.2
    assert said.probabilities is not None
    assert np.mean((said.probabilities[:, 1] > 0.5) == far) > 0.8


def test_a_frozen_network_that_cannot_read_the_service_is_refused(tmp_path: Path) -> None:
    reservoir = Reservoir(SPEC)
    reservoir.add(replace(events(50, 0), labels=[ClassName(str(i % 2)) for i in range(50)]))
    missing = msgspec.structs.replace(SPEC, consolidate=Consolidate(base=str(tmp_path / "none.onnx")))
    with pytest.raises(TrainingFailed, match=r"none\.onnx"):
        train_base(missing, reservoir)
