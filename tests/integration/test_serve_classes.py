"""Server workers that let new classes in beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest

from penstock.errors import BadEvent, LogUnavailable
from penstock.publish.interface import LiveReader
from penstock.serve.classes import ClassRegister, KnownClasses
from penstock.spec import ClassName, Feature, Label, Learn, Spec, Task
from penstock.testing.server import ServerProcess

SPEC = Spec(name="kinds", task="multiclass", features={"x": Feature(type="number")}, label=Label(classes_max=3))


class NothingLearned:
    def block(self) -> Any:
        return None


def worker(path: Path) -> KnownClasses:
    return KnownClasses(SPEC, cast(LiveReader, NothingLearned()), ClassRegister(path))


def admit(known: KnownClasses, *names: str) -> None:
    known.admit([ClassName(name) for name in names])


def test_workers_together_let_in_no_more_than_allowed(tmp_path: Path) -> None:
    first, second = worker(tmp_path / "classes"), worker(tmp_path / "classes")
    admit(first, "a", "b")
    admit(second, "c\n\U0001f600\x00", "a")
    for known in (first, second, worker(tmp_path / "classes")):
        admit(known, "c\n\U0001f600\x00", "b", "a")
        with pytest.raises(BadEvent, match="has 3 of the 3"):
            admit(known, "d")


def test_classes_of_the_log_count_though_they_were_not_written_down(tmp_path: Path) -> None:
    first, second = worker(tmp_path / "classes"), worker(tmp_path / "classes")
    first.remember([ClassName("a"), ClassName("b")])
    admit(first, "c")
    with pytest.raises(BadEvent):
        admit(second, "d")


def test_a_line_cut_by_a_crash_is_forgotten(tmp_path: Path) -> None:
    admit(worker(tmp_path / "classes"), "a")
    with (tmp_path / "classes").open("ab") as file:
        file.write(b'"torn')
    admit(worker(tmp_path / "classes"), "b")
    assert (tmp_path / "classes").read_bytes() == b'"a"\n"b"\n'


def test_a_name_without_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadEvent, match="at most 512"):
        admit(worker(tmp_path / "classes"), "9" * 513)


def test_where_it_cannot_be_written_down_the_class_is_not_let_in(tmp_path: Path) -> None:
    known = worker(tmp_path / "missing" / "classes")
    with pytest.raises(LogUnavailable):
        admit(known, "a")
    (tmp_path / "missing").mkdir()
    admit(known, "a")


@pytest.mark.parametrize("task", ["multiclass", "multilabel"])
def test_a_label_that_is_taken_back_is_no_class_and_no_fault(tmp_path: Path, task: Task) -> None:
    spec = Spec(name="kinds", task=task, features={"x": Feature(type="number")}, learn=Learn(random_features=0))
    label = "a" if task == "multiclass" else ["a", "b"]
    column = pa.array([label, None], pa.string() if task == "multiclass" else pa.list_(pa.string()))
    both = pa.table({"id": ["p", "q"], "label": column, "retract": [False, True]})
    with ServerProcess(tmp_path, spec) as server:
        server.publish("kinds", 1)
        told = [{"id": "p", "label": label}, {"id": "q", "retract": True}]
        assert server.post("/v1/kinds/feedback", told).status == 201
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, both.schema) as writer:
            writer.write_table(both)
        body, media = sink.getvalue().to_pybytes(), "application/vnd.apache.arrow.stream"
        assert server.request("POST", "/v1/kinds/feedback", body, media).status == 201
        # Who starts again reads what was said.
        server.stop()
        server.start()
        assert server.post("/v1/kinds/feedback", told).status == 201
    written = (tmp_path / "data" / "kinds" / "classes.jsonl").read_text().split()
    assert written == (['"a"'] if task == "multiclass" else ['"a"', '"b"'])
