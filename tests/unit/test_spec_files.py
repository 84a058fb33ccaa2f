"""Service files on disk: one, many, folders of them, and what is no service file at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.errors import SpecInvalid
from penstock.specfile.reader import load, load_all

RIGHT = "name: {name}\ntask: regression\nfeatures: {{x: number}}\n"


def faults(*paths: Path) -> list[str]:
    with pytest.raises(SpecInvalid) as caught:
        load_all(paths)
    return [str(fault) for fault in caught.value.faults]


def test_a_folder_is_every_yaml_file_in_it(tmp_path: Path) -> None:
    (tmp_path / "b.yml").write_text(RIGHT.format(name="b"))
    (tmp_path / "a.yaml").write_text(RIGHT.format(name="a"))
    (tmp_path / "notes.txt").write_text("not a service")
    assert [spec.name for spec in load_all([tmp_path]).values()] == ["a", "b"]


def test_faults_of_all_files_are_reported_at_once_and_names_are_used_once(tmp_path: Path) -> None:
    for file, text in {
        "a.yaml": RIGHT.format(name="same"),
        "b.yaml": "# again\n" + RIGHT.format(name="same"),
        "c.yaml": "task: regression\n",
    }.items():
        (tmp_path / file).write_text(text)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert faults(tmp_path, empty, tmp_path / "d.yaml") == [
        f"{tmp_path}/b.yaml:2:7: name: 'same' is the name of the service in {tmp_path}/a.yaml already",
        f"{tmp_path}/c.yaml:1:1: name: is missing",
        f"{tmp_path}/c.yaml:1:1: features: is missing",
        f"{empty}: there is no .yaml or .yml file in this folder",
        f"{tmp_path}/d.yaml: there is no such file; `penstock init` writes one",
    ]


def test_bytes_that_are_no_text_are_refused_with_their_place(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_bytes(b"name: a\ntask: \xff\n")
    assert faults(file) == [f"{file}:2:7: not UTF-8: byte 0xff"]
    file.write_bytes(b"\xef\xbb\xbf" + RIGHT.format(name="a").encode())
    assert load(file).name == "a"


def test_a_file_that_is_too_large_to_be_a_service_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(RIGHT.format(name="a") + "#" * 1024**2)
    assert faults(file) == [f"{file}: is larger than 1MiB, which no service file is"]


def test_a_file_with_thousands_of_faults_shows_the_first_hundred(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(RIGHT.format(name="a") + "".join(f"z{i}: 1\n" for i in range(3000)))
    with pytest.raises(SpecInvalid) as caught:
        load(file)
    assert len(caught.value.faults) == 3000
    assert str(caught.value).endswith("\n... and 2900 more")
    assert caught.value.advice == f"Correct what is named above, then run: penstock check {file}"
