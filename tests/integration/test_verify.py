"""`penstock verify` on real folders: a learner's process that was killed, a bit that was flipped, a journal that says
something else, steps that are forgotten, and another machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock.cli.main import run
from penstock.control.house import PENSTOCK, learner_environment
from penstock.control.record import record
from penstock.learn.checkpoint import Checkpoints
from penstock.learn.journal import RecordedSteps, StepJournal, read_steps
from penstock.learn.steps import Step
from penstock.publish.past.verify import Verification
from penstock.publish.records.environment import Environment, find, keep
from penstock.service import run_verification
from penstock.spec import Gate, Spec
from penstock.testing.local_house import SPEC, Traffic

NAME = SPEC.name


def steps_of(data: Path) -> list[Step]:
    return list(read_steps(data / NAME / "steps"))


class Running:
    """The learner's process of a service in this folder."""

    def __init__(self, data: Path, spec: Spec = SPEC) -> None:
        record({Path("service.yaml"): spec}, data)
        self.data = data
        command = [*PENSTOCK, "_learner", "--data", str(data), NAME]
        self.process = subprocess.Popen(command, env=os.environ | learner_environment(spec))

    def until(self, steps: int) -> None:
        while self.last() < steps:
            assert self.process.poll() is None, "the learner ended by itself"
            time.sleep(0.02)

    def last(self) -> int:
        folder = self.data / NAME / "steps"
        return RecordedSteps(folder).last if folder.exists() else 0

    def end(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)
        self.process.wait()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped service: three lives, of which the first was killed, and the last had another gate."""
    data = tmp_path_factory.mktemp("finished")
    (data / NAME).mkdir()
    traffic = Traffic(data / NAME, seed=3)

    def live(spec: Spec, steps: int) -> Running:
        learner = Running(data, spec)
        learner.until(1)
        more = learner.last() + steps
        while learner.last() < more:
            traffic.send()
            time.sleep(0.002)
        return learner

    live(SPEC, 120).end(signal.SIGKILL)
    live(SPEC, 60).end()
    live(msgspec.structs.replace(SPEC, gate=Gate(good_after_events=256, alpha=0.01)), 60).end()
    traffic.close()
    return data


@pytest.fixture
def data(finished: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    copied = tmp_path / "data"
    shutil.copytree(finished, copied)
    return copied


def verify(data: Path, version: int, *options: str, capfd: pytest.CaptureFixture[str]) -> tuple[int, Mapping[str, Any]]:
    capfd.readouterr()
    code = run(["verify", NAME, str(version), "--json", "--data", str(data), *options])
    return code, json.loads(capfd.readouterr().out)


def rebuilt(data: Path, version: int, *, from_start: bool = True) -> Verification:
    """The same in this process."""
    return run_verification(NAME, data, version, from_start=from_start, progress=lambda *_: None)


def middle(data: Path) -> int:
    """A version between the checkpoints that are kept."""
    kept = Checkpoints(data / NAME / "checkpoints", 3).steps()
    return next(step.version for step in steps_of(data) if step.number > kept[0] + 2 and step.action == "publish")


def test_a_version_in_the_middle_is_rebuilt_from_a_checkpoint_and_from_the_beginning(
    finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    version = middle(finished)
    code, found = verify(finished, version, capfd=capfd)
    assert (code, found["outcome"]) == (0, "equal"), found
    assert found["from_step"] > 0
    code, whole = verify(finished, version, "--from-start", capfd=capfd)
    assert (code, whole["outcome"], whole["from_step"]) == (0, "equal", 0), whole
    assert whole["weights"] == found["weights"]
    assert whole["steps"] >= whole["step"]
    assert whole["events"] == sum(step.taken for step in steps_of(finished)[: whole["steps"]])
    assert whole["states"] >= 2
    assert len({step.environment for step in steps_of(finished)} - {""}) == 2, "the gate's settings were changed"


def test_what_was_materialised_is_compared_with_its_receipt_and_its_snapshot(
    finished: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    version = max(step.version for step in steps_of(finished) if step.weights)
    code, found = verify(finished, version, capfd=capfd)
    assert (code, found["compared"]) == (0, ["receipt", "snapshot"]), found


def test_a_service_that_runs_is_verified_beside_it(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    learner = Running(data, msgspec.structs.replace(SPEC, gate=Gate(good_after_events=256, alpha=0.01)))
    traffic = Traffic(data / NAME, seed=4)
    before = steps_of(data)[-1].number
    while learner.last() < before + 20:
        traffic.send()
        time.sleep(0.002)
    version = next(step.version for step in steps_of(data) if step.number > before + 10 and step.action == "publish")
    code, found = verify(data, version, capfd=capfd)
    assert (code, found["outcome"]) == (0, "equal"), found
    assert learner.process.poll() is None
    learner.end()
    traffic.close()


def test_a_flipped_bit_in_the_log_is_named(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    steps = steps_of(data)
    # Corrections and orders are entries without events of their own.
    taking = [step for step in steps if step.ranges]
    taken = taking[len(taking) // 2].ranges[-1]
    segments = sorted((data / NAME / "log" / str(taken[0])).glob("*.log"))
    damaged = max((path for path in segments if int(path.stem) <= taken[1]), key=lambda path: int(path.stem))
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 4
    damaged.write_bytes(content)
    code, found = verify(data, steps[-1].version, "--from-start", capfd=capfd)
    assert (code, found["outcome"]) == (1, "corrupt"), found
    place = found["place"]
    assert (place["file"], place["partition"]) == (str(damaged), taken[0])
    assert place["byte"] <= len(content) // 2
    # The frame that it names is the one that the reader meets: all events before it were taken.
    reached = {p: stop for step in steps[: found["steps"]] for p, _, stop in step.ranges}
    assert reached.get(taken[0], 0) <= place["offset"] + 1


def rewritten(data: Path, change: dict[int, dict[str, object]]) -> None:
    """The journal with other fields in some of its entries."""
    folder = data / NAME / "steps"
    steps = steps_of(data)
    shutil.rmtree(folder)
    journal = StepJournal(folder)
    for step in steps:
        fields = {name: getattr(step, name) for name in Step.__struct_fields__}
        journal.append(Step(**fields | change.get(step.number, {})))
    journal.close()


def test_a_journal_that_says_something_else_is_not_equal_from_that_step_on(data: Path) -> None:
    steps = steps_of(data)
    wrong = next(step for step in steps if step.events and step.number > len(steps) // 2)
    rewritten(data, {wrong.number: {"loss_sum": wrong.loss_sum * (1.0 + 2**-52)}})
    found = rebuilt(data, steps[-1].version)
    assert found.diverged_step == wrong.number, found
    assert found.reason.startswith(f"Replaying step {wrong.number} gave another result than the first time: loss_sum")


def test_what_was_made_elsewhere_and_comes_out_otherwise_is_not_called_wrong(data: Path) -> None:
    steps = steps_of(data)
    recorded = find(data / NAME, steps[0].environment)
    assert isinstance(recorded, Environment)
    libraries = recorded.libraries | {"numpy": "1.0.0"}
    other = keep(data / NAME, msgspec.structs.replace(recorded, libraries=libraries))
    wrong = next(step for step in steps if step.events)
    rewritten(data, {1: {"environment": other}, wrong.number: {"loss_sum": wrong.loss_sum + 1.0}})
    found = rebuilt(data, steps[-1].version)
    assert (found.outcome, found.diverged_step) == ("impossible", wrong.number), found
    assert f"numpy was 1.0.0 and is {recorded.libraries['numpy']}" in found.elsewhere


def test_a_version_whose_steps_are_forgotten_cannot_be_rebuilt(data: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = data / NAME / "steps"
    steps = steps_of(data)
    shutil.rmtree(folder)
    folder.mkdir()
    kept = Checkpoints(data / NAME / "checkpoints", 3).steps()[0]
    (folder / f"{kept + 1:020d}.steps").write_bytes(b"PENSTEP\x02")
    journal = StepJournal(folder)
    journal.append(*(step for step in steps if step.number > kept))
    journal.close()
    assert rebuilt(data, steps[-1].version, from_start=False).outcome == "equal"
    code, found = verify(data, steps[-1].version, "--from-start", capfd=capfd)
    assert (code, found["outcome"]) == (3, "impossible")
    assert "the beginning are forgotten" in found["reason"]
    other = rebuilt(data, 2)
    assert other.outcome == "impossible"
    assert "does not hold the step that made it" in other.reason


def test_what_never_was_is_a_plain_error(finished: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["verify", NAME, "999999", "--data", str(finished)]) == 1
    assert f"Service '{NAME}' has no version 999999" in capfd.readouterr().err
    assert run(["verify", "nobody", "1", "--data", str(finished)]) == 1
    assert "The services here: local." in capfd.readouterr().err
