"""Tables as requests: whatever is in the file arrives, in order, with ids that stay the same."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.cli import tables
from penstock.cli.inference import infer
from penstock.cli.tables import open_source, pieces
from penstock.client import ARROW
from penstock.errors import BadFile
from penstock.spec import Feature, Spec
from penstock.specfile.reader import Service

SPEC = Service(
    name="s",
    task="multiclass",
    features={"n": "number", "c": "category", "v": "vector[2]", "b": "boolean", "t": "timestamp"},
    label={"name": "y"},
)


def rows_of(path: Path, spec: Spec = SPEC, *, rows: int = 7, done: int = 0, **more: Any) -> list[dict[str, Any]]:
    """The events of a file as plain values, features in their own mapping whatever the format."""
    options = {"label": None, "skip": ()} | more
    found: list[dict[str, Any]] = []
    for piece in pieces(open_source(str(path), None), spec, rows=rows, done=done, **options):
        assert piece.first == done + len(found)
        assert 0 < piece.rows <= rows
        if piece.media == ARROW:
            with pa.ipc.open_stream(piece.body) as stream:
                found += stream.read_all().to_pylist()
        else:
            found += [json.loads(line) for line in piece.body.splitlines()]
        assert len(found) == piece.first + piece.rows - done
    return found


# No lone carriage return and no NUL: CSV has no agreed way to write them.
words = st.text(st.characters(exclude_categories=["Cs", "Cc"], include_characters="\n"), min_size=1, max_size=6).filter(
    lambda text: text.strip() == text
)
table_rows = st.lists(
    st.tuples(st.one_of(st.none(), st.floats(-1e9, 1e9)), st.one_of(st.none(), words), words), min_size=1, max_size=25
)


@given(table_rows, st.integers(1, 40), st.integers(1, 9), st.integers(0, 30))
def test_a_csv_file_arrives_whole_wherever_blocks_and_requests_are_cut(
    table: list[tuple[float | None, str | None, str]], block: int, rows: int, done: int
) -> None:
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_MINIMAL, lineterminator="\n")
    writer.writerow(["n", "c", "y"])
    writer.writerows([["" if n is None else repr(n), c or "", y] for n, c, y in table])
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(tables, "BLOCK_BYTES", block):
        file = Path(folder, "t.csv")
        file.write_text(text.getvalue())
        found = rows_of(file, rows=rows)
        assert [(row["n"], row["c"], row["y"]) for row in found] == table
        assert rows_of(file, rows=rows, done=min(done, len(table))) == found[done:]


def test_formats_agree_and_ids_name_the_content_and_the_row(tmp_path: Path) -> None:
    table = {"n": [1.5, None, -2.0], "c": ["a", None, "7"], "v": [[1.0, 2.0], None, [0.5, 0.0]], "y": ["u", "w", "u"]}
    pyarrow.parquet.write_table(pa.table(table), tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text('n,c,v,y\n1.5,a,"[1, 2]",u\nNA,,,w\n-2,7,0.5 0,u\n')
    flat = [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in flat))
    from_csv, from_parquet = rows_of(tmp_path / "t.csv"), rows_of(tmp_path / "t.parquet")
    assert [{**row, "id": None} for row in from_csv] == [{**row, "id": None} for row in from_parquet]
    assert [{**row["features"], "y": row["label"]} for row in rows_of(tmp_path / "t.jsonl")] == flat
    digest = open_source(str(tmp_path / "t.csv"), None).digest
    assert [row["id"] for row in from_csv] == [f"{digest}-{row}" for row in (1, 2, 3)]
    assert digest != open_source(str(tmp_path / "t.parquet"), None).digest


def test_columns_of_other_types_become_the_services(tmp_path: Path) -> None:
    table = pa.table(
        {
            "n": pa.array([True, False]),
            "c": pa.array(["x", "y"]).dictionary_encode(),
            "b": pa.array([1, 0]),
            "y": pa.array([1.0, 2.0]),
            "id": pa.array([7, 8]),
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet")
    assert rows_of(tmp_path / "t.parquet") == [
        {"n": 1, "c": "x", "b": True, "y": "1", "id": "7"},
        {"n": 0, "c": "y", "b": False, "y": "2", "id": "8"},
    ]


def test_a_missing_number_may_be_written_as_nan_and_is_missing_then(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pa.table({"n": [math.nan, 1.0], "y": ["a", "b"]}), tmp_path / "t.parquet")
    assert [row["n"] for row in rows_of(tmp_path / "t.parquet")] == [None, 1.0]


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ({"n": ["1", "x"], "y": ["a", "b"]}, ", row 2: column 'n' should hold a number, not 'x'"),
        ({"n": [1.0, math.inf], "y": ["a", "b"]}, ", row 2: column 'n' is infinite, which no number here may be"),
        ({"v": [[1.0, 2.0], [1.0]], "y": ["a", "b"]}, ", row 2: column 'v' should hold lists of 2 numbers"),
        ({"v": [1.0, 2.0], "y": ["a", "b"]}, ": column 'v' should hold lists of 2 numbers, not double"),
        ({"n": [1.0, 2.0], "y": ["a", None]}, ", row 2: the label, column 'y', is missing"),
        ({"q": [1.0, 2.0], "y": ["a", "b"]}, ": column 'q' is no feature of 's'; leave it out with --skip 'q'"),
        ({"y": ["a", "b"]}, ": none of its columns is a feature of 's'"),
        ({"n": [1.0, 2.0]}, ": there is no column 'y' with the label; name it with --label"),
    ],
)
def test_what_cannot_be_an_event_is_named_with_its_row(tmp_path: Path, table: dict[str, Any], reason: str) -> None:
    file = tmp_path / "t.parquet"
    pyarrow.parquet.write_table(pa.table(table), file)
    with pytest.raises(BadFile) as caught:
        rows_of(file)
    assert str(caught.value) == f"{file}{reason}"


def test_rows_behind_many_blocks_are_counted_from_the_files_beginning(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("n,y\n" + "1,a\n" * 500 + "x,a\n")
    with mock.patch.object(tables, "BLOCK_BYTES", 64), pytest.raises(BadFile) as caught:
        rows_of(file)
    assert str(caught.value) == f"{file}, row 501: column 'n' should hold a number, not 'x'"


def test_a_service_is_inferred_from_any_format(tmp_path: Path) -> None:
    count = 40
    table = {
        "id": [f"e{i}" for i in range(count)],
        "amount": [i / 3 for i in range(count)],
        "visits": [i % 7 for i in range(count)],
        "city": [("bonn", "rome")[i % 2] for i in range(count)],
        "note": [f"they said that it is number {i}" for i in range(count)],
        "pixels": [[0.0, 1.0, float(i)] for i in range(count)],
        "is_new": [i % 3 == 0 for i in range(count)],
        "empty": pa.nulls(count),
        "kind": [("a", "b", "c")[i % 3] for i in range(count)],
    }
    pyarrow.parquet.write_table(pa.table(table), tmp_path / "my events.parquet")
    spec, notes = infer(str(tmp_path / "my events.parquet"))
    assert (spec.name, spec.task, spec.label.name, spec.label.classes) == (
        "my-events",
        "multiclass",
        "kind",
        ("a", "b", "c"),
    )
    assert spec.features == {
        "amount": Feature(type="number"),
        "visits": Feature(type="number"),
        "city": Feature(type="category"),
        "note": Feature(type="text"),
        "pixels": Feature(type="vector", width=3),
        "is_new": Feature(type="boolean"),
    }
    assert notes == {"empty": "it is empty in the rows looked at"}
    flat = [{name: values[i] for name, values in table.items() if name != "empty"} for i in range(count)]
    (tmp_path / "e.jsonl").write_text("\n".join(json.dumps(row) for row in flat))
    assert infer(str(tmp_path / "e.jsonl"), name="my-events")[0] == spec


@pytest.mark.parametrize(
    ("values", "task", "classes"),
    [
        (["0", "1"], "binary", ()),
        (["yes", "no"], "binary", ("no", "yes")),
        (["true", "false"], "binary", ("false", "true")),
        (["0", "1", "2"], "multiclass", ("0", "1", "2")),
        (["10", "9", "1"], "multiclass", ("1", "9", "10")),
        (["1.5", "2"], "regression", ()),
        ([str(i) for i in range(100)], "regression", ()),
        (["1.0", "0.0"], "binary", ()),
    ],
)
def test_the_task_follows_the_label(tmp_path: Path, values: list[str], task: str, classes: tuple[str, ...]) -> None:
    file = tmp_path / "t.csv"
    file.write_text(
        "x,answer\n" + "".join(f"{i},{v}\n" for i, v in enumerate(itertools.islice(itertools.cycle(values), 200)))
    )
    spec, _ = infer(str(file))
    assert (spec.task, spec.label.classes) == (task, classes)


def test_counts_are_asked_for_and_read_as_numbers(tmp_path: Path) -> None:
    file = tmp_path / "calls.csv"
    file.write_text("hour,calls\n" + "".join(f"{i},{i % 3}\n" for i in range(60)))
    spec, _ = infer(str(file), task="counts")
    assert (spec.task, spec.label.classes, list(spec.features)) == ("counts", (), ["hour"])
    assert [row["calls"] for row in rows_of(file, spec)][:4] == [0.0, 1.0, 2.0, 0.0]


def test_a_byte_order_mark_before_json_lines_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "marked.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"n": 1, "y": "a"}\r\n\r\n{"n": 2, "y": "b"}')
    assert [row["features"]["n"] for row in rows_of(path)] == [1, 2]


def test_labels_of_true_and_false_are_sent_as_they_are(tmp_path: Path) -> None:
    spec = Service(name="s", task="binary", features={"n": "number"}, label={"name": "y"})
    pyarrow.parquet.write_table(pa.table({"n": [1.0, 2.0], "y": [True, False]}), tmp_path / "t.parquet")
    rows = rows_of(tmp_path / "t.parquet", spec)
    assert [row["y"] for row in rows] == [True, False]


def test_the_column_that_says_whose_an_event_is_arrives_as_text(tmp_path: Path) -> None:
    spec = Service(name="s", task="binary", features={"n": "number"}, label={"name": "y"}, subject="user")
    pyarrow.parquet.write_table(pa.table({"n": [1.0], "y": [1], "user": [7]}), tmp_path / "t.parquet")
    (tmp_path / "t.csv").write_text("n,y,user\n1.0,1,007\n")
    (tmp_path / "t.jsonl").write_text('{"n": 1.0, "y": 1, "user": 7}\n')
    assert rows_of(tmp_path / "t.parquet", spec)[0]["user"] == "7"
    assert rows_of(tmp_path / "t.csv", spec)[0]["user"] == "007"
    assert rows_of(tmp_path / "t.jsonl", spec)[0]["subject"] == "7"


def test_what_another_system_answered_travels_with_the_rows(tmp_path: Path) -> None:
    """As a column of its own in each format, of classes and of numbers, and missing where it says nothing."""
    text = tmp_path / "a.csv"
    text.write_text("n,y,incumbent\n1,a,b\n2,b,\n")
    assert [row.get("incumbent") for row in rows_of(text)] == ["b", None]
    lines = tmp_path / "a.jsonl"
    lines.write_text('{"n": 1, "y": "a", "incumbent": {"a": 0.5}}\n{"n": 2, "y": "b", "incumbent": null}\n')
    assert [row["incumbent"] for row in rows_of(lines)] == [{"a": 0.5}, None]
    assert all("incumbent" not in row["features"] for row in rows_of(lines))
    file = tmp_path / "a.parquet"
    chances = pa.array([[("a", 0.25)], None], pa.map_(pa.string(), pa.float64()))
    pyarrow.parquet.write_table(pa.table({"n": [1.0, 2.0], "y": ["a", "b"], "incumbent": chances}), file)
    assert [row["incumbent"] for row in rows_of(file)] == [[("a", 0.25)], None]
    flow = Service(name="f", task="regression", features={"n": "number"}, label={"name": "y"})
    numbers = tmp_path / "f.csv"
    numbers.write_text("n,y,incumbent\n1,2,2.5\n2,3,\n")
    assert [row["incumbent"] for row in rows_of(numbers, flow)] == [2.5, None]
    numbers.write_text("n,y,incumbent\n1,2,high\n")
    with pytest.raises(BadFile, match="'incumbent' should hold a number"):
        rows_of(numbers, flow)
