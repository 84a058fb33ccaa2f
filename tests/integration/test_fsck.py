"""`penstock fsck`: finds what is damaged and says where, mends what can be mended, and invents nothing."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from penstock.cli.main import run
from penstock.control.folder import locked
from penstock.control.record import record
from penstock.eventlog.local import LocalLogReader, LocalLogWriter
from penstock.events import Partition
from penstock.learn.checkpoint import Checkpoints
from penstock.learn.journal import read_steps
from penstock.testing.local_house import SPEC, Traffic, publisher_of

SENDS = 260


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder as a learner that was killed leaves it: segments, three checkpoints and steps behind them."""
    data = tmp_path_factory.mktemp("whole") / "data"
    folder = data / SPEC.name
    folder.mkdir(parents=True)
    record({Path("local.yaml"): SPEC}, data)
    traffic = Traffic(folder, seed=3, segment_bytes=30_000)
    publisher = publisher_of(folder, kept=3)
    publisher.start()
    for sent in range(1, SENDS + 1):
        traffic.send()
        publisher.step()
        if sent % 50 == 0:
            publisher.checkpoint()
    publisher.close()
    traffic.close()
    return data


@pytest.fixture
def data(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "data")
    return tmp_path / "data"


def fsck(data: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, list[dict[str, object]]]:
    """The exit code, and the findings."""
    code = run(["fsck", str(data), "--json", *more])
    return code, [one for told in json.loads(capsys.readouterr().out) for one in told["findings"]]


def flip(path: Path, byte: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 0x40
    path.write_bytes(content)


def segments(data: Path, partition: int = 0) -> list[Path]:
    return sorted((data / SPEC.name / "log" / str(partition)).glob("*.log"))


def checkpoints(data: Path) -> list[Path]:
    return sorted(path for path in (data / SPEC.name / "checkpoints").iterdir() if path.name.isdigit())


def state_of(data: Path) -> tuple[str, str]:
    """What a learner is that starts here: its state, and what it says of itself."""
    publisher = publisher_of(data / SPEC.name, kept=3)
    publisher.start()
    found = publisher.state_hash(), repr(publisher.progress)
    publisher.close()
    return found


def files_of(data: Path) -> dict[str, bytes]:
    return {str(p.relative_to(data)): p.read_bytes() for p in data.rglob("*") if p.is_file() and p.name != "lock"}


def test_what_is_whole_is_called_so_and_nothing_is_changed(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(segments(data)) > 3
    assert len(checkpoints(data)) == 3
    before = {name: content for name, content in files_of(data).items() if "sqlite-" not in name}
    assert fsck(data, capsys) == (0, [])
    assert fsck(data, capsys, "--repair") == (0, [])
    assert before.items() <= files_of(data).items()
    assert run(["fsck", str(data), SPEC.name]) == 0
    assert "local: nothing is damaged" in capsys.readouterr().out


def cut_frame(data: Path) -> None:
    """Half of an append that was never acknowledged."""
    newest = segments(data)[-1]
    content = newest.read_bytes()
    newest.write_bytes(content + content[72:112])


def cut_entry(data: Path) -> None:
    newest = max((data / SPEC.name / "steps").glob("*.steps"))
    newest.write_bytes(newest.read_bytes() + b"\xf1STP\x40\0\0\0half")


def spoil_newest_checkpoint(data: Path) -> None:
    flip(checkpoints(data)[-1] / "state.safetensors", 3000)


def spoil_oldest_checkpoint(data: Path) -> None:
    (checkpoints(data)[0] / "manifest.json").write_text("{")


def spoil_all_but_the_oldest_checkpoint(data: Path) -> None:
    for place in checkpoints(data)[1:]:
        (place / "state.safetensors").unlink()


def spoil_mark(data: Path) -> None:
    (data / SPEC.name / "log" / "0" / "mark").write_bytes(b"\xff" * 1024)


def lose_mark(data: Path) -> None:
    (data / SPEC.name / "log" / "1" / "mark").unlink()


def spoil_snapshot(data: Path) -> None:
    newest = max((data / SPEC.name / "snapshots").iterdir())
    flip(newest / "weights.safetensors", -3)


def spoil_receipts(data: Path) -> None:
    file = data / SPEC.name / "versions.sqlite"
    with sqlite3.connect(file) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.execute("UPDATE receipts SET body = x'01' WHERE version = 3")
    connection.close()


def lose_incarnation(data: Path) -> None:
    (data / SPEC.name / "log" / "0" / "incarnation").unlink()


REPAIRABLE: list[tuple[Callable[[Path], None], str, int]] = [
    (cut_frame, "log", 1),
    (cut_entry, "journal", 1),
    (spoil_newest_checkpoint, "checkpoint", 1),
    (spoil_oldest_checkpoint, "checkpoint", 1),
    (spoil_all_but_the_oldest_checkpoint, "checkpoint", 2),
    (spoil_mark, "log", 1),
    (lose_mark, "log", 1),
    (spoil_snapshot, "snapshot", 1),
    (spoil_receipts, "receipts", 1),
    (lose_incarnation, "ids", 1),
]


@pytest.mark.parametrize(("spoil", "part", "count"), REPAIRABLE, ids=[spoil.__name__ for spoil, _, _ in REPAIRABLE])
def test_what_can_be_replaced_is_mended_and_the_learner_comes_back_to_its_state(
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    spoil: Callable[[Path], None],
    part: str,
    count: int,
) -> None:
    shutil.copytree(data, tmp_path / "unharmed")
    state = state_of(tmp_path / "unharmed")
    spoil(data)
    before = files_of(data)
    code, findings = fsck(data, capsys)
    assert code == 1
    assert [(one["part"], one["repairable"], one["repaired"]) for one in findings] == [(part, True, False)] * count
    assert {name: c for name, c in files_of(data).items() if "sqlite-" not in name}.items() <= before.items()

    code, repaired = fsck(data, capsys, "--repair")
    assert code == 0
    assert [one["repaired"] for one in repaired] == [True] * count
    assert [one["what"] for one in repaired] == [one["what"] for one in findings]
    for one in repaired:
        if one["kept"]:
            assert str(one["kept"]).endswith(".damaged")
            assert Path(str(one["kept"])).exists()
    assert fsck(data, capsys) == (0, [])
    assert state_of(data) == state
    for partition in (0, 1):
        LocalLogWriter(data / SPEC.name / "log", Partition(partition)).close()


def flip_in_the_middle(data: Path) -> tuple[Path, int]:
    path = segments(data)[1]
    frame = path.read_bytes().find(b"PFRM", 2000)
    flip(path, frame + 60)
    return path, frame


def test_a_flipped_bit_in_the_middle_is_placed_and_never_repaired(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, frame = flip_in_the_middle(data)
    before = path.read_bytes()
    for more in ((), ("--repair",)):
        code, (one,) = fsck(data, capsys, *more)
        assert code == 1
        assert (one["part"], one["file"], one["byte"], one["partition"]) == ("log", str(path), frame, 0)
        assert one["repairable"] is False
    assert path.read_bytes() == before
    # Reading comes to the same place and says the same.
    reader = LocalLogReader(data / SPEC.name / "log")
    with pytest.raises(Exception, match=rf"byte {frame}: .* \(partition 0, offset {one['offset']}\)"):
        list(reader.read(Partition(0), reader.starts()[Partition(0)], reader.ends()[Partition(0)]))
    reader.close()
    # Everything behind the broken frame was looked at: only its own events are lost.
    lost = str(one["what"]).rpartition("offsets ")[2]
    first, last = (int(number) for number in lost.split(" to "))
    assert first == one["offset"]
    assert 0 <= last - first < 40


def test_a_missing_segment_is_told_by_its_offsets(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone, behind = segments(data)[1:3]
    gone.unlink()
    code, findings = fsck(data, capsys, "--repair")
    assert code == 1
    assert f"offsets {int(gone.stem)} to {int(behind.stem) - 1} are missing" in str(findings[0]["what"])
    assert not any(one["repaired"] for one in findings)


def test_a_log_that_lost_its_end_is_told_by_log_journal_and_checkpoints(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newest = segments(data)[-1]
    newest.write_bytes(newest.read_bytes()[:72])
    code, findings = fsck(data, capsys, "--repair")
    assert code == 1
    assert {one["part"] for one in findings} >= {"log", "journal"}
    assert any("are missing at the end" in str(one["what"]) for one in findings)
    assert any("and the log ends at" in str(one["what"]) for one in findings if one["part"] == "journal")


def test_damage_in_the_journal_is_told_and_stays(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    oldest = min((data / SPEC.name / "steps").glob("*.steps"))
    flip(oldest, 40)
    before = oldest.read_bytes()
    code, findings = fsck(data, capsys, "--repair")
    assert code == 1
    assert "journal" in {one["part"] for one in findings}
    assert oldest.read_bytes() == before


def test_the_last_checkpoint_is_not_put_aside_when_nothing_replaces_it(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert next(read_steps(data / SPEC.name / "steps")).number > 1, "the journal has forgotten its beginning"
    for place in checkpoints(data):
        (place / "state.safetensors").write_bytes(b"")
    code, findings = fsck(data, capsys, "--repair")
    assert code == 1
    assert [(one["part"], one["repairable"]) for one in findings] == [("checkpoint", False)] * 3
    assert len(checkpoints(data)) == 3


def test_a_checkpoint_of_another_state_than_the_journal_tells_is_found(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = data / SPEC.name / "checkpoints"
    kept = Checkpoints(folder, 10)
    newest = kept.read(kept.steps()[-1])
    position = {**newest.position, Partition(0): newest.position[Partition(0)] - 1}
    shutil.rmtree(checkpoints(data)[-1])
    kept.write(type(newest)(**{name: getattr(newest, name) for name in newest.__slots__} | {"position": position}))
    _, (one,) = fsck(data, capsys)
    assert "it has taken partition 0 up to" in str(one["what"])


def test_it_refuses_a_folder_that_a_process_holds_and_names_the_process(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for more in ([], ["--repair"]):
        with locked(data):
            assert run(["fsck", str(data), *more]) == 1
        assert f"is in use by process {os.getpid()}" in capsys.readouterr().err
        writer = LocalLogWriter(data / SPEC.name / "log", Partition(1))
        assert run(["fsck", str(data), *more]) == 1
        assert f"log/1 is in use by process {os.getpid()}" in capsys.readouterr().err
        writer.close()


def test_usage_errors_end_with_two(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for arguments in ([str(tmp_path / "nowhere")], [str(tmp_path / "empty")], [str(data), "another"]):
        assert run(["fsck", *arguments]) == 2
    assert "There is no service 'another' here" in capsys.readouterr().err


def test_people_are_told_what_it_means_and_what_to_do(data: Path) -> None:
    cut_frame(data)
    spoil_newest_checkpoint(data)
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "fsck", str(data)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "local: 2 found, 2 remain" in done.stdout
    assert "was never acknowledged. Nothing is lost." in done.stdout
    assert "The learner starts from the checkpoint of step" in done.stdout
    assert f"penstock fsck {data} --repair" in done.stderr


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choice=st.data())
def test_whatever_byte_of_the_log_is_flipped_it_is_found_and_no_whole_event_is_lost_by_a_repair(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, choice: st.DataObject
) -> None:
    home = tmp_path_factory.mktemp("flipped")
    shutil.copytree(whole, home / "data")
    path = choice.draw(st.sampled_from(segments(home / "data")))
    size = path.stat().st_size
    # The last append alone may look like one that was never finished, if the mark is damaged as well.
    flip(path, choice.draw(st.integers(0, size - 1)))
    before = path.read_bytes()
    assert run(["fsck", str(home / "data"), "--repair"]) == 1
    assert path.read_bytes() == before
    shutil.rmtree(home)


def test_without_a_mark_a_broken_frame_in_front_of_whole_ones_is_no_torn_tail(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil_mark(data)
    path = segments(data)[-1]
    flip(path, 72 + 50)
    before = path.read_bytes()
    code, findings = fsck(data, capsys, "--repair")
    assert code == 1
    assert any(one["byte"] == 72 and not one["repairable"] for one in findings)
    assert not any(one["repaired"] for one in findings)
    assert path.read_bytes() == before
