"""The supervisor with children of a few lines: restarts, order, signals, and who outlives whom."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from up_process import until

from penstock.control.folder import is_alive

SCRIPT = """
import signal, sys
from penstock.control import supervisor
from penstock.control.supervisor import Child, Supervisor

folder = sys.argv[1]
PROLOGUE = f'''
import os, signal, sys, time
def note(text):
    with open({folder!r} + "/notes", "a") as notes:
        notes.write(text + chr(10))
'''

def child(name, drain, program, waits=False):
    argv = (sys.executable, "-c", PROLOGUE + program)
    return Child(name=name, argv=argv, group="g", key=name, drain=drain, waits=waits)

STAYS = '''
name = NAME
note(f"{name} {os.getpid()}")
def stop(*_):
    note(f"{name} drained")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print(name, "runs", flush=True)
while True:
    time.sleep(0.05)
'''

DEAF = '''
signal.signal(signal.SIGTERM, signal.SIG_IGN)
note(f"deaf {os.getpid()}")
time.sleep(60)
'''

children = {
    "late": child("late", 1, STAYS.replace("NAME", "'late'")),
    "early": child("early", 0, STAYS.replace("NAME", "'early'")),
    "patient": child("patient", 0, STAYS.replace("NAME", "'patient'"), waits=True),
    "deaf": child("deaf", 0, DEAF),
    "usage": child("usage", 0, "print('no such option', flush=True); sys.exit(2)"),
    "misled": child("misled", 0, "note('tried'); sys.exit(2)"),
    "failing": child("failing", 0, "note('tried'); sys.exit(1)"),
}
names = sys.argv[2:]
is_ready = "ready" in names
if "soon" in names:
    supervisor.WAIT_MAX_S = 0.1
if "nohup" in names:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
code = Supervisor([children[name] for name in names if name in children], is_ready=lambda: is_ready).run()
sys.exit(code)
"""


class House:
    def __init__(self, folder: Path, *children: str) -> None:
        self.notes_file = folder / "notes"
        self.errors = folder / "errors"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), *children], stderr=errors)

    def notes(self) -> list[str]:
        return self.notes_file.read_text().splitlines() if self.notes_file.exists() else []

    def pids(self, name: str) -> list[int]:
        return [int(note.split()[1]) for note in self.notes() if note.startswith(f"{name} ") and note[-1].isdigit()]

    def wait_for(self, *names: str) -> None:
        until(lambda: all(self.pids(name) for name in names), f"{names} did not start: {self.errors.read_text()}")


def test_a_child_that_dies_is_started_again_and_its_lines_carry_its_name(tmp_path: Path) -> None:
    house = House(tmp_path, "late")
    until(lambda: house.errors.read_text().count("late | late runs") == 1, "it did not start")
    os.kill(house.pids("late")[0], signal.SIGKILL)
    until(lambda: house.errors.read_text().count("late | late runs") == 2, "it was not started again")
    assert len(set(house.pids("late"))) == 2
    house.process.terminate()
    assert house.process.wait(20) == 0
    said = house.errors.read_text()
    assert "late | was ended by SIGKILL; it starts again in 0.1 s" in said


def test_a_child_that_waits_is_started_when_the_others_are_ready_or_take_too_long(tmp_path: Path) -> None:
    never = House(tmp_path, "patient", "late")
    never.wait_for("late")
    never.process.terminate()
    assert never.process.wait(20) == 0
    assert never.notes()[1:] == ["late drained"]
    for reason in ("ready", "soon"):
        at_last = House(tmp_path, "patient", "late", reason)
        at_last.wait_for("patient")
        at_last.process.terminate()
        assert at_last.process.wait(20) == 0
        at_last.notes_file.unlink()


def test_the_drain_goes_stage_by_stage_and_ends_with_zero(tmp_path: Path) -> None:
    house = House(tmp_path, "late", "early")
    house.wait_for("late", "early")
    house.process.send_signal(signal.SIGINT)
    assert house.process.wait(20) == 0
    assert [note for note in house.notes() if "drained" in note] == ["early drained", "late drained"]


def test_a_second_signal_kills_what_does_not_stop(tmp_path: Path) -> None:
    house = House(tmp_path, "deaf")
    house.wait_for("deaf")
    house.process.terminate()
    until(lambda: "stopping" in house.errors.read_text(), "the first signal was not heeded")
    assert house.process.poll() is None
    house.process.terminate()
    assert house.process.wait(20) == 1
    assert not is_alive(house.pids("deaf")[0])


def test_children_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    house = House(tmp_path, "late", "deaf")
    house.wait_for("late", "deaf")
    house.process.kill()
    house.process.wait()
    pids = house.pids("late") + house.pids("deaf")
    until(lambda: not any(is_alive(pid) for pid in pids), "a child outlived its supervisor")
    assert "late drained" not in house.notes()


def test_a_usage_error_before_readiness_ends_the_house_with_its_code(tmp_path: Path) -> None:
    house = House(tmp_path, "late", "usage")
    assert house.process.wait(20) == 2
    said = house.errors.read_text()
    assert "usage | no such option" in said
    assert "ended with a usage error and is not started again" in said


def test_a_child_that_keeps_failing_is_started_ever_more_seldom(tmp_path: Path) -> None:
    house = House(tmp_path, "failing")
    until(lambda: len(house.notes()) >= 4, "it was given up")
    house.process.terminate()
    # The child may be about to fail once more, which then counts as an end out of order.
    assert house.process.wait(20) in (0, 1)
    said = house.errors.read_text()
    assert [wait for wait in ("0.1 s", "0.2 s", "0.4 s") if f"it starts again in {wait}" in said] == [
        "0.1 s",
        "0.2 s",
        "0.4 s",
    ]


def test_a_usage_error_after_readiness_is_tried_again_like_any_other_end(tmp_path: Path) -> None:
    house = House(tmp_path, "ready", "misled")
    until(lambda: len(house.notes()) >= 2, "it was given up")
    assert "misled | ended with exit code 2; it starts again in 0.1 s" in house.errors.read_text()
    house.process.terminate()
    # 1 where one more of its ends falls into the drain.
    assert house.process.wait(20) in (0, 1)


def test_a_hangup_drains_unless_it_is_ignored(tmp_path: Path) -> None:
    house = House(tmp_path, "nohup", "late")
    house.wait_for("late")
    house.process.send_signal(signal.SIGHUP)
    os.kill(house.pids("late")[0], signal.SIGKILL)
    until(lambda: len(house.pids("late")) == 2, "the hangup was heeded")
    house.process.terminate()
    assert house.process.wait(20) == 0
    (tmp_path / "other").mkdir()
    other = House(tmp_path / "other", "late")
    other.wait_for("late")
    other.process.send_signal(signal.SIGHUP)
    assert other.process.wait(20) == 0
