"""The step journal: what was appended is there after any cut, damage is an error, and one process writes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.errors import FolderInUse, StepsCorrupt, StepsUnavailable
from penstock.events import Offset, Partition, Version
from penstock.learn.journal import StepJournal, read_steps
from penstock.learn.steps import Step
from penstock.testing.faults import run_in_child


def step(number: int) -> Step:
    return Step(
        number=number,
        action="publish",
        ranges=((Partition(0), Offset(10 * number), Offset(10 * number + 10)), (Partition(1), Offset(0), Offset(1))),
        version=Version(number),
        gain=(0.1, -0.5, 0.7, 10),
        loss_sum=number / 3.0,
        verdict="the update is not worse " * (number % 4),
    )


def filled(folder: Path, numbers: range, rotate_at: tuple[int, ...] = ()) -> Path:
    journal = StepJournal(folder)
    for number in numbers:
        journal.append(step(number))
        if number in rotate_at:
            journal.rotate()
    journal.close()
    return max(folder.glob("*.steps"))


def test_entries_come_back_as_they_were_over_rotations_and_restarts(tmp_path: Path) -> None:
    filled(tmp_path, range(1, 6), rotate_at=(2, 4))
    filled(tmp_path, range(6, 9), rotate_at=(8,))
    assert list(read_steps(tmp_path)) == [step(n) for n in range(1, 9)]
    assert [s.number for s in read_steps(tmp_path, after=4)] == [5, 6, 7, 8]
    journal = StepJournal(tmp_path)
    assert journal.last == 8
    with pytest.raises(ValueError, match="step 11 cannot follow step 8"):
        journal.append(step(11))
    journal.close()


def test_entries_that_were_appended_together_are_there_together_or_not_at_all(tmp_path: Path) -> None:
    newest = filled(tmp_path, range(1, 3))
    before = len(newest.read_bytes())
    journal = StepJournal(tmp_path)
    with pytest.raises(ValueError, match="step 5 cannot follow step 3"):
        journal.append(step(3), step(5))
    journal.append(step(3), step(4), step(5))
    assert journal.last == 5
    journal.close()
    whole = newest.read_bytes()
    for end in range(before, len(whole)):
        newest.write_bytes(whole[:end])
        assert [s.number for s in read_steps(tmp_path)] == [1, 2]
    newest.write_bytes(whole)
    assert [s.number for s in read_steps(tmp_path, after=3)] == [4, 5]


def test_only_whole_files_below_the_number_are_forgotten(tmp_path: Path) -> None:
    filled(tmp_path, range(1, 10), rotate_at=(3, 6))
    journal = StepJournal(tmp_path)
    journal.forget(through=5)
    assert next(iter(journal.entries())).number == 4
    journal.forget(through=100)
    assert [s.number for s in journal.entries()] == [7, 8, 9], "the newest file always stays"
    journal.close()


def test_a_tail_torn_at_any_byte_is_cut_and_the_next_entry_takes_its_place(tmp_path: Path) -> None:
    filled(tmp_path / "whole", range(1, 3))
    two = filled(tmp_path / "whole", range(0)).stat().st_size
    path = filled(tmp_path / "whole", range(3, 4))
    data = path.read_bytes()
    for length in range(two, len(data)):
        folder = tmp_path / f"cut-{length}"
        folder.mkdir()
        (folder / path.name).write_bytes(data[:length])
        assert [s.number for s in read_steps(folder)] == [1, 2], "another process sees whole entries alone"
        journal = StepJournal(folder)
        assert (journal.last, journal.bytes_cut) == (2, length - two)
        journal.append(step(3))
        journal.close()
        assert list(read_steps(folder)) == [step(1), step(2), step(3)]


def test_a_file_whose_beginning_is_torn_is_made_again(tmp_path: Path) -> None:
    filled(tmp_path, range(1, 3), rotate_at=(2,))
    newest = max(tmp_path.glob("*.steps"))
    newest.write_bytes(newest.read_bytes()[:3])
    assert [s.number for s in read_steps(tmp_path)] == [1, 2]
    assert list(read_steps(filled(tmp_path, range(3, 4)).parent)) == [step(1), step(2), step(3)]


@given(data=st.data())
def test_a_flipped_bit_before_the_last_entry_is_never_passed_over(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("flipped")
    path = filled(folder, range(1, 4))
    last = len(path.read_bytes()) - len(filled(tmp_path_factory.mktemp("short"), range(1, 3)).read_bytes())
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - last - 1))
    content[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(content)
    with pytest.raises(StepsCorrupt):
        StepJournal(folder)


def test_damage_in_an_older_file_and_a_missing_file_are_errors(tmp_path: Path) -> None:
    filled(tmp_path / "flip", range(1, 8), rotate_at=(2, 4))
    middle = sorted((tmp_path / "flip").glob("*.steps"))[1]
    content = bytearray(middle.read_bytes())
    content[-1] ^= 1
    middle.write_bytes(content)
    with pytest.raises(StepsCorrupt, match="it ends before step 4"):
        list(read_steps(tmp_path / "flip"))
    filled(tmp_path / "gone", range(1, 8), rotate_at=(2, 4))
    sorted((tmp_path / "gone").glob("*.steps"))[1].unlink()
    with pytest.raises(StepsCorrupt):
        list(read_steps(tmp_path / "gone"))


def test_a_second_writer_is_refused_by_name_until_the_first_is_dead(tmp_path: Path) -> None:
    journal = StepJournal(tmp_path)
    with pytest.raises(FolderInUse, match=f"process {os.getpid()}"):
        StepJournal(tmp_path)
    journal.close()

    def die_as_writer() -> None:
        StepJournal(tmp_path)
        os.kill(os.getpid(), 9)

    assert not run_in_child(die_as_writer)
    StepJournal(tmp_path).close()


def test_after_a_failed_write_nothing_more_is_recorded(tmp_path: Path) -> None:
    journal = StepJournal(tmp_path)
    journal.append(step(1))
    os.close(journal._fd)  # the disk is gone
    with pytest.raises(StepsUnavailable, match="cannot be written"):
        journal.append(step(2))
    journal._fd = os.open(tmp_path / "elsewhere", os.O_WRONLY | os.O_CREAT)
    with pytest.raises(StepsUnavailable, match="an earlier write failed"):
        journal.append(step(2))
    journal.close()
    assert list(read_steps(tmp_path)) == [step(1)]
