"""The consolidator with trainings of a few lines: when it trains, what it says of a failure, what it leaves."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import msgspec
import pytest
from up_process import until

from penstock.control.consolidator import Consolidator
from penstock.control.folder import is_alive
from penstock.events import Offset, Partition, Version
from penstock.learn.configuration import Configuration
from penstock.learn.ready import hold, holds
from penstock.publish.candidates.consolidating import (
    Challenge,
    Consolidating,
    ask,
    ask_challenge,
    asked_challenge,
    is_asked,
    read_consolidating,
    write_consolidating,
)
from penstock.publish.interface import Progress, SlowTier
from penstock.spec import Consolidate, Feature, Spec
from penstock.testing.memory_publish import MemoryLiveWeights

SPEC = Spec(
    name="s",
    task="binary",
    features={"x": Feature(type="number")},
    consolidate=Consolidate(every_events=100, max_s=1.0),
)
CHALLENGE = Challenge(at=1.0, configuration=Configuration.of(SPEC), changes=("learn.tree_window 0 instead of 4096",))
LEAVES_A_CANDIDATE = "import os, sys; os.makedirs(sys.argv[1] + '/ready/00000001')"


class House:
    """A consolidator whose trainings are one program."""

    def __init__(self, folder: Path, program: str, grace_s: float = 60.0) -> None:
        self.folder = folder / "consolidation"
        self.live = MemoryLiveWeights()
        self.calls: list[tuple[int, str]] = []
        self.now = 1000.0
        self.stop = threading.Event()

        def command(number: int, reason: str) -> list[str]:
            self.calls.append((number, reason))
            return [sys.executable, "-c", program, str(self.folder)]

        (folder / "checkpoints" / "1").mkdir(parents=True, exist_ok=True)
        self.consolidator = Consolidator(SPEC, folder, self.live, command, now=lambda: self.now, grace_s=grace_s)

    def learned(self, examples: int, **slow: int) -> None:
        self.live.report(Progress(version=Version(1), examples_learned=examples, slow=SlowTier(**slow)))  # type: ignore[arg-type]

    def look(self) -> bool:
        return self.consolidator.look(self.stop)

    @property
    def state(self) -> Consolidating:
        return read_consolidating(self.folder)


def test_it_trains_when_enough_was_learned_and_waits_for_the_candidate_it_left(tmp_path: Path) -> None:
    house = House(tmp_path, LEAVES_A_CANDIDATE)
    house.learned(99)
    assert not house.look()
    house.learned(100)
    assert house.look()
    assert house.calls == [(1, "schedule")]
    assert (house.state.phase, house.state.failures) == ("waiting", 0)
    house.learned(1000)
    assert not house.look(), "number 1 was not taken up yet"
    house.learned(1000, settled=1, settled_events=950)
    assert not house.look()
    house.learned(1050, settled=1, settled_events=950)
    assert house.look()
    assert house.calls[-1] == (2, "schedule")


def test_a_failure_is_told_in_its_own_words_and_the_same_number_is_tried_again_later(tmp_path: Path) -> None:
    house = House(tmp_path, "import sys; print('line one'); sys.exit('Error: no such thing')")
    house.learned(100)
    assert house.look()
    assert house.state.phase == "failed"
    assert house.state.failure == "line one\nError: no such thing"
    assert not house.look(), "it would fail in a loop"
    house.now += 30.0
    assert house.look()
    assert house.calls == [(1, "schedule"), (1, "schedule")]
    assert house.state.failures == 2


def test_one_that_ends_without_a_candidate_has_failed(tmp_path: Path) -> None:
    house = House(tmp_path, "pass")
    house.learned(100)
    assert house.look()
    assert house.state.failure == "it ended in order and left no candidate"
    assert not house.look()


def test_a_request_is_taken_once(tmp_path: Path) -> None:
    house = House(tmp_path, LEAVES_A_CANDIDATE)
    house.learned(1)
    ask(house.folder, 1.0)
    assert house.look()
    assert house.calls == [(1, "request")]
    assert not is_asked(house.folder)
    house.learned(2, settled=1, settled_events=1)
    assert not house.look()


def test_a_training_without_end_is_ended_and_nothing_stays_held(tmp_path: Path) -> None:
    house = House(tmp_path, "import time; time.sleep(60)", grace_s=-0.8)
    hold(house.folder, 3, {Partition(0): Offset(5)})
    house.learned(100)
    assert house.look()
    assert "did not end within 0.2 s" in house.state.failure
    assert holds(house.folder) == []


@pytest.mark.parametrize("phase", ["training", "failed"])
def test_what_one_that_was_killed_left_behind_is_put_right(tmp_path: Path, phase: str) -> None:
    house = House(tmp_path, "pass")
    write_consolidating(house.folder, msgspec.structs.replace(Consolidating(), phase=phase, number=4, failures=1))
    hold(house.folder, 3, {})
    again = House(tmp_path, "pass")
    again.stop.set()
    again.consolidator.run(again.stop)
    assert holds(again.folder) == []
    assert again.state.phase == ("waiting" if phase == "training" else "failed")
    assert again.state.failures == 1


def test_being_told_to_stop_ends_the_training_and_is_no_failure(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    program = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
    house = House(tmp_path, program)
    house.learned(100)
    running = threading.Thread(target=house.consolidator.run, args=(house.stop,))
    running.start()
    until(lambda: pid_file.exists() and bool(pid_file.read_text()), "the training did not begin")
    house.stop.set()
    running.join()
    assert not is_alive(int(pid_file.read_text()))
    assert (house.state.phase, house.state.failures, house.state.failure) == ("waiting", 0, "")


def test_other_settings_are_tried_once_and_a_training_that_was_asked_for_comes_after_them(tmp_path: Path) -> None:
    house = House(tmp_path, LEAVES_A_CANDIDATE)
    house.learned(1)
    ask(house.folder, 1.0)
    ask_challenge(house.folder, CHALLENGE)
    assert house.look()
    assert (house.calls, asked_challenge(house.folder)) == ([(1, "challenge")], None)
    assert is_asked(house.folder)
    house.learned(2, settled=1, settled_events=1)
    assert house.look()
    assert house.calls[1:] == [(2, "request")]


def test_settings_that_are_asked_for_while_others_learn_are_tried_after_them(tmp_path: Path) -> None:
    later = msgspec.structs.replace(CHALLENGE, at=2.0)
    asks_again = f"open(sys.argv[1] + '/challenge.json', 'wb').write({msgspec.json.encode(later)!r})"
    house = House(tmp_path, f"{LEAVES_A_CANDIDATE}; {asks_again}")
    house.learned(1)
    ask_challenge(house.folder, CHALLENGE)
    assert house.look()
    assert asked_challenge(house.folder) == later


def test_a_challenge_that_fails_is_told_and_neither_repeated_nor_held_against_trainings(tmp_path: Path) -> None:
    house = House(tmp_path, "import sys; sys.exit('Error: no such thing')")
    house.learned(1)
    ask_challenge(house.folder, CHALLENGE)
    assert house.look()
    assert (house.state.phase, house.state.reason) == ("failed", "challenge")
    assert (house.state.failure, house.state.failures, house.state.retry_at) == ("Error: no such thing", 0, 0.0)
    assert not house.look()


@pytest.mark.parametrize(("is_ready", "settled", "is_done"), [(True, 3, True), (False, 4, True), (False, 3, False)])
def test_a_challenge_whose_consolidator_was_killed_is_made_anew_unless_it_had_left_its_candidate(
    tmp_path: Path, is_ready: bool, settled: int, is_done: bool
) -> None:
    house = House(tmp_path, LEAVES_A_CANDIDATE.replace("00000001", "00000004"))
    ask_challenge(house.folder, CHALLENGE)
    write_consolidating(house.folder, Consolidating(phase="training", number=4, reason="challenge", challenge=1.0))
    again = House(tmp_path, LEAVES_A_CANDIDATE.replace("00000001", "00000004"))
    again.consolidator._begin()
    if is_ready:
        (again.folder / "ready" / "00000004").mkdir(parents=True)
    again.learned(1, settled=settled)
    assert again.look() != is_done
    assert again.calls == ([] if is_done else [(4, "challenge")])
    assert asked_challenge(again.folder) is None
