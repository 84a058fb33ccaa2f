"""Members from outside under a real `penstock up`: found, killed, replayed and answered from; and what is said when
they cannot be had."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper, save_model
from up_process import PENSTOCK, environment, penstock, running, until

from penstock.client import NDJSON

TREE = "river.tree.HoeffdingAdaptiveTreeClassifier(grace_period=50)"
BAYES = "sklearn.naive_bayes.GaussianNB()"
FAILS = "sklearn.naive_bayes.MultinomialNB()"


def _network(path: Path, weight: float) -> None:
    """The probability that x is in the second class: a sigmoid of its first number."""
    weights = np.array([[weight], [0.0]], np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["z"]), helper.make_node("Sigmoid", ["z"], ["p"])],
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("p", TensorProto.FLOAT, [None, 1])],
        [numpy_helper.from_array(weights, "w")],
    )
    path.parent.mkdir(exist_ok=True)
    save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))


def _service(folder: Path, *members: str) -> Path:
    named = "".join(f"    - {member}\n" for member in members)
    file = folder / "s.yaml"
    file.write_text(
        "name: s\ntask: binary\nfeatures: {a: number, b: number}\nconsolidate: {when: never}\n"
        f"learn:\n  random_features: 8\n  tree_window: 0\n  checkpoint_every: 1s\n  members:\n{named}"
    )
    return file


def _events(n: int, seed: int) -> bytes:
    generator = np.random.default_rng(seed)
    rows = generator.uniform(-1, 1, (n, 2)).tolist()
    lines = [{"features": {"a": a, "b": b}, "label": int(abs(a) < 0.5)} for a, b in rows]
    return b"\n".join(json.dumps(line).encode() for line in lines)


def test_members_learn_are_replayed_and_answer(tmp_path: Path) -> None:
    _network(tmp_path / "models" / "n.onnx", 4.0)
    file, data = _service(tmp_path, TREE, BAYES, "models/n.onnx", FAILS), tmp_path / "data"
    asked = {"a": 0.1, "b": 0.3}
    with running(file, data) as up:
        with up.client() as client:
            for seed in range(4):
                client.examples("s", _events(150, seed), media=NDJSON)
            until(lambda: client.status("s")["events"]["learned"] == 600, "events were not learned")
            up.kill(up.state.learners["s"])
            client.examples("s", _events(100, 9), media=NDJSON)
            until(lambda: client.status("s")["events"]["learned"] == 700, "events were not learned after a kill")
            until(lambda: client.predict("s", asked)["label"] == "1", "what the tree knows does not answer")
            told = client.status("s")["model"]["left_out"]
            assert told.keys() == {FAILS}
            assert "Negative values" in told[FAILS]
        shown = penstock("status", "s", url=up.state.address, home=tmp_path)
        assert f"does without its member {FAILS}, which failed when learning" in shown.stderr
        assert "ReplayDiverged" not in up.output.read_text()
        assert up.stop() == 0
    _network(tmp_path / "models" / "n.onnx", -4.0)
    refused = penstock("up", str(file), "--data", str(data), "--port", "0", home=tmp_path)
    assert refused.returncode == 2
    assert "the network of learn.members[2] changed" in refused.stderr


def test_faults_are_said_with_their_lines_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"nothing")
    file = _service(
        tmp_path,
        "river.tree.HoeffdingTree",
        "river.tree.HoeffdingTreeClassifier(grace=5)",
        "river.tree.HoeffdingTreeRegressor()",
        "sklearn.svm.SVC()",
        "missing.onnx",
        "bad.onnx",
        TREE,
    )
    for command in (("check", str(file)), ("up", str(file), "--data", str(tmp_path / "data"), "--port", "0")):
        refused = penstock(*command, home=tmp_path)
        assert refused.returncode == 2, refused.stderr
        for line, said in (
            (10, "names river.tree.HoeffdingTree, which is no class"),
            (11, "does not take these arguments: got an unexpected keyword argument 'grace'"),
            (12, "is no classifier"),
            (13, "it has no partial_fit"),
            (14, "names a file that is not there"),
            (15, "cannot be opened"),
        ):
            assert any(f"s.yaml:{line}:7: learn.members[{line - 10}]: " in told and said in told
                       for told in refused.stderr.splitlines()), (line, refused.stderr)  # fmt: skip
        assert "s.yaml:16" not in refused.stderr
    assert not (tmp_path / "data").exists()


def test_a_library_that_is_missing_is_named(tmp_path: Path) -> None:
    file = _service(tmp_path, TREE)
    (tmp_path / "river.py").write_text("raise ModuleNotFoundError(\"No module named 'river'\", name='river')\n")
    env = environment(tmp_path, PYTHONPATH=str(tmp_path))
    done = subprocess.run([*PENSTOCK, "check", str(file)], capture_output=True, env=env, cwd=tmp_path, timeout=60)
    assert done.returncode == 1
    assert f"The member {TREE} needs river, which is not installed" in done.stderr.decode()
    assert "pip install 'penstock[members]'" in done.stderr.decode()


LEARNS = """
import hashlib, sys
from pathlib import Path
import numpy as np
from penstock.events import Batch, Kind
from penstock.learn.fast.model import FastModel
from penstock.learn.outside.registry import OutsideMembers
from penstock.specfile.reader import load
spec = load("s.yaml")
model = FastModel(spec, outside=OutsideMembers(spec, Path()))
numbers = np.random.default_rng(0).uniform(-1, 1, (300, 2))
labels = [str(int(abs(a) < 0.5)) for a in numbers[:, 0]]
events = Batch(kind=Kind.EXAMPLE, times=np.arange(300.0), ids=None, sources=None, numbers=numbers, vectors=(),
               strings=(), labels=labels, versions=None)
for at in range(0, 300, 30):
    model.learn(events.rows(slice(at, at + 30)))
arrays = model.save().arrays
assert "outside.0" in arrays
print(hashlib.sha256(b"".join(arrays[name].tobytes() for name in sorted(arrays))).hexdigest())
"""


@pytest.mark.parametrize("member", ["river.forest.ARFClassifier(n_models=3)"])
def test_two_processes_learn_the_same_bytes(tmp_path: Path, member: str) -> None:
    _service(tmp_path, member)
    env = environment(tmp_path, PYTHONHASHSEED="0")
    runs = [
        subprocess.run([sys.executable, "-c", LEARNS], capture_output=True, env=env, cwd=tmp_path, timeout=60)
        for _ in range(2)
    ]
    assert runs[0].returncode == 0, runs[0].stderr.decode()
    assert len(runs[0].stdout) == 2 * hashlib.sha256().digest_size + 1
    assert runs[0].stdout == runs[1].stdout
