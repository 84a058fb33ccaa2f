"""`penstock bench recover`, in short: real processes, real kills, and what the check at the end would notice."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from penstock.cli.benchmarks import floors, recover
from penstock.cli.benchmarks.load import Flood, Form, bodies_of
from penstock.cli.benchmarks.recover import Settings, measure, tables, words
from penstock.cli.main import run
from penstock.eventlog.interface import Entry
from penstock.eventlog.local import LocalLogReader, LocalLogWriter
from penstock.events import Kind, Offset, Partition, encode
from penstock.learn.checkpoint import Checkpoints
from penstock.serve.decode import Decoder, Media
from penstock.specfile.writer import settings as written
from penstock.testing.local_house import SPEC, Traffic, publisher_of
from penstock.testing.small_house import small_events

SHORT = Settings(kills=4, lengths=(2000,), clients=2, events_per_s=400.0, ids_events=0)


@pytest.mark.timeout(300)
def test_nothing_is_lost_or_learned_twice_and_the_state_is_that_of_one_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recover, "AT_A_LENGTH", ("learner", "loader"))
    report = measure(msgspec.structs.replace(SHORT, folder=tmp_path, seed=5), "penstock bench recover", print)
    assert report.is_sound
    assert (report.lost, report.duplicated, report.torn_versions) == (0, 0, 0)
    assert report.state_hash_equal
    assert (report.kills, sum(report.kills_of.values())) == (4, 4)
    assert report.acknowledged > 0
    assert report.learned >= 2000 + report.acknowledged
    assert report.versions_seen > 4
    # The traffic of each stretch has ids of its own: none of it was known before.
    assert report.learned > 2000 + report.acknowledged
    assert report.lengths[0].learner_mb > 10
    assert json.loads(msgspec.json.encode(report))["restart_to_learning_s"]["p99"] > 0
    assert "4 kills" in words(report)[0]
    assert "By length of the log" in tables(report)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A data folder that a learner left, with all of its steps, and what clients were told."""
    data = tmp_path / "data"
    folder = data / SPEC.name
    folder.mkdir(parents=True)
    (folder / "service.json").write_bytes(msgspec.json.encode(written(SPEC)))
    traffic = Traffic(folder, seed=1)
    publisher = publisher_of(folder)
    publisher.start()
    for _ in range(40):
        traffic.send()
        publisher.step()
    traffic.close()
    learned(publisher)
    return data


def learned(publisher: object) -> None:
    while publisher.step() or publisher.has_backlog():  # type: ignore[attr-defined]
        pass
    publisher.checkpoint()  # type: ignore[attr-defined]
    publisher.close()  # type: ignore[attr-defined]


def verified(data: Path, acknowledged: list[str]) -> recover.Verified:
    from penstock.cli.benchmarks.recover_verify import Plan, verify

    file = data.parent / "acknowledged.json"
    file.write_bytes(msgspec.json.encode(acknowledged))
    return verify(Plan(data=str(data), service=SPEC.name, acknowledged=str(file)))


def test_the_check_at_the_end_notices_what_was_lost_and_what_was_computed_otherwise(stopped: Path) -> None:
    folder = stopped / SPEC.name
    ids = answered_ids(folder)
    whole = verified(stopped, sorted(ids))
    assert (whole.lost, whole.duplicated) == (0, 0)
    assert whole.state_hash == whole.left_hash
    assert verified(stopped, [*sorted(ids), "told and never learned"]).lost == 1

    checkpoints = Checkpoints(folder / "checkpoints", 1_000_000)
    newest = checkpoints.read(checkpoints.steps()[-1])
    name = next(name for name, array in newest.arrays.items() if array.dtype == float and array.size)
    newest.arrays[name].flat[0] += 1e-9
    checkpoints.write(newest)
    assert verified(stopped, sorted(ids)).state_hash != verified(stopped, []).left_hash


def test_the_check_at_the_end_notices_an_id_that_is_learned_twice(
    stopped: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import numpy as np

    from penstock.join import window

    folder = stopped / SPEC.name
    twice = small_events(Kind.EXAMPLE, np.random.default_rng(0), 2, 0)
    numbers = np.zeros((2, 4))
    twice = type(twice)(**{n: getattr(twice, n) for n in twice.__slots__} | {"numbers": numbers, "ids": ["d", "d"]})
    writer = LocalLogWriter(folder / "log", Partition(0))
    writer.append([Entry(kind=Kind.EXAMPLE, count=2, payload=encode(twice))])
    writer.close()
    # A join that remembers nothing lets both through, when they are learned and when the steps are taken again.
    monkeypatch.setattr(window.RecentLabels, "first_seen", lambda *_: None)
    publisher = publisher_of(folder)
    publisher.start()
    learned(publisher)
    assert verified(stopped, ["d"]).duplicated == 1


def answered_ids(folder: Path) -> set[str]:
    """Ids of the feedback that found its prediction."""
    from penstock.events import decode

    reader = LocalLogReader(folder / "log")
    ids: dict[Kind, set[str]] = {kind: set() for kind in Kind}
    for partition, end in reader.ends().items():
        for frame in reader.read(partition, Offset(0), end):
            ids[frame.kind].update(i for i in decode(frame.payload).ids or () if i is not None)
    reader.close()
    return ids[Kind.PREDICTION] & ids[Kind.FEEDBACK]


@pytest.mark.parametrize("form", ["json_batch", "arrow_batch"])
def test_what_ids_cost_is_measured_on_events_that_have_them(form: Form) -> None:
    decoder = Decoder(floors.spec())
    media = Media.JSON if form == "json_batch" else Media.ARROW
    for ids, expected in (("", None), ("event-", ["event-7", "event-8"])):
        plan = Flood(url="", form=form, batch=2, start=7, ids=ids, events=2, connections=1)
        (body,) = bodies_of(plan, 2)
        assert decoder.decode(Kind.EXAMPLE, body, media, 1.0, None).ids == expected


def test_the_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "recover", "--help"]) == 0
    assert "Exit code 1 where anything was lost" in " ".join(capsys.readouterr().out.split())
