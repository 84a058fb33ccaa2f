"""`penstock bench learn`: the same events and lag for everybody, rows for those who fail, and faults in words."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from penstock.cli.benchmarks import learn_streams, trial
from penstock.cli.benchmarks.learn import QUICK, Settings, bounds
from penstock.cli.benchmarks.learn_report import Report
from penstock.cli.benchmarks.learn_streams import GENERATED, NotThere, Stream, from_file, load, make
from penstock.cli.benchmarks.learner_forms import dictionaries, vowpal_lines
from penstock.cli.benchmarks.learners import LEARNERS, NO_CHANGE, OURS, PEERS
from penstock.cli.benchmarks.trial import Bounds, Trial, learn
from penstock.errors import BadFile
from penstock.spec import ClassName, Feature

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
WHOLE = Bounds(events=10**9, seconds=60.0)
ROW = {"model", "accuracy", "log_loss", "ece", "kappa_temporal", "events_per_s", "memory_mb"}


def _separable(count: int = 200, classes: int = 2) -> Stream:
    draws = np.random.default_rng(5)
    numbers = draws.normal(size=(count, 2))
    codes = np.clip(np.floor(numbers[:, 0] + classes / 2), 0, classes - 1).astype(int)
    features = {"a": Feature(type="number"), "b": Feature(type="number")}
    return make("separable", features, numbers, [ClassName(f"c{code}") for code in codes])


# Streams --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GENERATED)
def test_generators_are_seeded_and_show_several_classes(name: str) -> None:
    one, two = load(name, None, 2_001), load(name, None, 2_001)

    assert np.array_equal(one.events.numbers, two.events.numbers)
    assert one.labels == two.labels
    assert len(one.events) == 2_001
    assert len(one.classes) >= 2
    assert np.isfinite(one.events.numbers).all()


def test_concepts_change_where_it_is_said() -> None:
    # The very rows of SEA's first quarter have other labels under the threshold of the second.
    changed, count = load("sea", None, 4_000), 1_000
    thresholds = []
    for part in range(4):
        rows = slice(part * count, (part + 1) * count)
        sums = changed.events.numbers[rows, :2].sum(axis=1)
        said = np.array(changed.labels[rows]) == "true"
        candidates = np.linspace(0, 20, 201)
        agree = [max(((sums > t) == said).mean(), ((sums <= t) == said).mean()) for t in candidates]
        thresholds.append(candidates[int(np.argmax(agree))])
    assert thresholds == pytest.approx([8, 9, 7, 9.5], abs=0.5)


def test_streams_of_a_folder_are_read_to_the_limit_or_left_out_with_a_word(tmp_path: Path) -> None:
    with pytest.raises(NotThere, match="--data"):
        load("electricity", None, None)
    with pytest.raises(NotThere, match=r"elec2_data\.dat"):
        load("electricity", tmp_path, None)
    (tmp_path / "elec2").mkdir()
    (tmp_path / "elec2" / "elec2_data.dat").write_text("0 2 0.5\n1 3 0.25\n0 1 0\n")
    (tmp_path / "elec2" / "elec2_label.dat").write_text("0\n1\n0\n")

    stream = load("electricity", tmp_path, 2)

    assert stream.events.numbers.tolist() == [[0, 2, 0.5], [1, 3, 0.25]]
    assert stream.labels == ["0", "1"]
    assert stream.spec.task == "binary"
    (tmp_path / "elec2" / "elec2_label.dat").write_text("0\n")
    with pytest.raises(BadFile, match="labels"):
        load("electricity", tmp_path, None)


def test_streams_of_a_library_that_is_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("river", "river.datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    for name in ("phishing", "sea"):
        with pytest.raises(NotThere, match=r"penstock\[bench\]"):
            load(name, None, 100)


def test_a_file_has_the_types_that_init_gives_it_and_everybody_gets_its_values(tmp_path: Path) -> None:
    file = tmp_path / "mixed.csv"
    rows = ['1.5,red,true,"a b c d e",1.0', ",blue,,f g h i j,0.0", '-2,"light, blue",false,"k l m n o",1.0']
    file.write_text("size,colour,is_new,story,answer\n" + "\n".join(rows) + "\n")

    stream = from_file(str(file), "answer", None, lambda _: None)

    assert {name: about.type for name, about in stream.spec.features.items()} == {
        "size": "number",
        "colour": "category",
        "is_new": "boolean",
        "story": "text",
    }
    assert stream.labels == ["1", "0", "1"]
    assert stream.spec.task == "binary"
    first, second, third = dictionaries(stream)
    assert first == {
        "size": 1.5,
        "is_new": 1.0,
        "colour": "red",
        **{f"story:{word}": 1 for word in "abcde"},
    }
    assert "size" not in second
    assert "is_new" not in second
    assert third["colour"] == "light, blue"
    lines = list(vowpal_lines(stream))
    assert [line.split()[0] for line in lines] == ["1", "-1", "1"]
    assert all(re.fullmatch(r"-?1 \|( [cf]\d+(:[-\d.e]+)?)+", line) for line in lines)


def test_classes_are_looked_for_in_all_rows_and_the_limit_counts_rows(tmp_path: Path) -> None:
    file = tmp_path / "late.parquet"
    answers = [i % 2 for i in range(25_000)] + [2]
    pa.parquet.write_table(pa.table({"x": list(range(25_001)), "y": answers}), file)

    assert from_file(str(file), "y", None, lambda _: None).classes == ["0", "1", "2"]
    assert len(from_file(str(file), "y", 12_345, lambda _: None).events) == 12_345


@pytest.mark.parametrize(
    ("text", "label", "said"),
    [
        ("", None, "empty"),
        ("a,y\n", None, "no rows"),
        ("a,y\n1,x\n2,z\n", "nope", "no column 'nope'; it has a, y"),
        ("a,y\n1,x\n2,x\n", "y", "one class only, 'x'"),
        ("a,y\n1,0.1\n2,0.2\n3,0.7\n", "y", "a quantity"),
        ("a,y\n1,x\n2,\n3,z\n", "y", "row 2: the label"),
        ("y\nx\nz\n", "y", "at least one"),
    ],
)
def test_faults_of_a_file_are_named(tmp_path: Path, text: str, label: str | None, said: str) -> None:
    file = tmp_path / "table.csv"
    file.write_text(text)
    with pytest.raises(BadFile, match=re.escape(said)):
        from_file(str(file), label, None, lambda _: None)


# Learners -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("name", LEARNERS)
def test_everybody_learns_what_can_be_learned(name: str, classes: int) -> None:
    stream = _separable(400, classes)
    found = learn(name, stream, 1, WHOLE)

    assert found.scores is not None
    assert found.events == 400
    chance = max(np.bincount(stream.codes)) / 400
    if name != NO_CHANGE:
        assert found.scores.accuracy > chance + 0.1, name


@pytest.mark.parametrize("name", [name for name in LEARNERS if name != NO_CHANGE])
def test_in_a_step_nobody_has_seen_any_of_its_labels(name: str) -> None:
    """The answers for a step do not change with the labels in it: predicted all, then learned all."""
    stream = _separable(96, 3)
    turned = [stream.classes[(code + (place >= 64)) % 3] for place, code in enumerate(stream.codes.tolist())]
    other = make("separable", dict(stream.spec.features), stream.events.numbers, turned)
    answers = []
    for version in (stream, other):
        learner = LEARNERS[name].build(version, 32)
        answers.append([learner.probabilities(learner.step(at, at + 32)) for at in (0, 32, 64)])

    for one, two in zip(*answers, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-12)
    # And it has learned from the steps before: what it says of the third is not what it said of the first.
    assert not np.allclose(answers[0][0].mean(axis=0), answers[0][2].mean(axis=0))


def test_the_no_change_row_repeats_the_last_label_at_the_lag_of_the_step() -> None:
    stream = make("letters", {"x": Feature(type="number")}, np.zeros((6, 1)), [ClassName(label) for label in "aabbba"])

    one, three = learn(NO_CHANGE, stream, 1, WHOLE), learn(NO_CHANGE, stream, 3, WHOLE)

    assert one.hits.tolist() == [True, True, False, True, True, False]
    assert three.hits.tolist() == [True, True, False, True, True, False]  # says a a a, then b b b
    assert one.scores is not None
    assert one.scores.kappa_temporal == 0.0
    assert one.scores.ece == pytest.approx(2 / 6)


def test_ours_equals_the_model_driven_by_hand() -> None:
    from penstock.learn.fast.model import FastModel

    stream = _separable(64)
    model = FastModel(stream.spec)
    by_hand = [model.learn(stream.events.rows(slice(at, at + 32))).predictions.probabilities for at in (0, 32)]
    learner = LEARNERS[OURS].build(stream, 32)
    answers = [learner.probabilities(learner.step(at, at + 32)) for at in (0, 32)]

    assert np.array_equal(np.concatenate([p for p in by_hand if p is not None]), np.concatenate(answers))


def test_a_prefix_knows_the_classes_that_come_later() -> None:
    stream = _separable(200, 3)
    start = stream.labels.index("c2")
    assert stream.first(start).classes == ["c0", "c1", "c2"]
    assert len(stream.first(start).events) == len(stream.first(start).codes) == start


def test_slow_learners_have_a_prefix_in_whole_steps_and_seconds_end_a_trial() -> None:
    settings = Settings(prefix=50)
    assert bounds(settings, "river_leveraging_bagging", 400).events == 50
    assert bounds(settings, OURS, 400).events == 400
    assert learn(OURS, _separable(), 32, Bounds(events=50, seconds=60.0)).events == 64
    cut = learn("river_logistic", _separable(), 1, Bounds(events=200, seconds=1e-9))
    assert cut.events == 1
    assert "stopped" in cut.ended
    assert set(QUICK.streams) <= set(learn_streams.NAMES)


# Processes ------------------------------------------------------------------------------------------------------------


def die(model: str, stream: Stream, step: int, within: Bounds) -> Trial:
    os.kill(os.getpid(), signal.SIGSEGV)
    return trial.failed("still there")


def hang(model: str, stream: Stream, step: int, within: Bounds) -> Trial:
    time.sleep(100)
    return trial.failed("woke up")


def choke(model: str, stream: Stream, step: int, within: Bounds) -> Trial:
    raise ValueError("cannot take\nthis")


def miss(model: str, stream: Stream, step: int, within: Bounds) -> Trial:
    raise ModuleNotFoundError("No module named 'river'")


def fill(model: str, stream: Stream, step: int, within: Bounds) -> Trial:
    before = trial.resident_bytes()
    held = np.ones(4_000_000)
    grown = trial.resident_bytes() - before
    threads = os.environ["OPENBLAS_NUM_THREADS"]
    return msgspec.structs.replace(trial.failed(threads), memory_mb=grown / 1e6, events_per_s=float(held[-1]))


def test_a_crash_a_hang_and_an_error_are_rows_that_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = _separable(40)
    assert trial.run(OURS, stream, 1, WHOLE, die).ended == "crashed: its process ended with -11"
    assert trial.run(OURS, stream, 1, WHOLE, choke).ended == "crashed: ValueError: cannot take this"
    assert trial.run(OURS, stream, 1, WHOLE, miss).ended.endswith(
        "'river'; install it with: pip install 'penstock[bench]'"
    )
    monkeypatch.setattr(trial, "PREPARING_S", 0.5)
    assert "timed out" in trial.run(OURS, stream, 1, Bounds(events=1, seconds=0.1), hang).ended
    monkeypatch.undo()

    after = trial.run(OURS, stream, 1, WHOLE)

    assert after.scores == learn(OURS, stream, 1, WHOLE).scores


def test_memory_is_what_a_child_grew_by_and_it_has_one_thread() -> None:
    found = trial.run(OURS, _separable(10), 1, WHOLE, fill)

    assert found.ended == "1"
    assert found.memory_mb == pytest.approx(32, abs=3)


# The command ----------------------------------------------------------------------------------------------------------


def _command(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "penstock", "bench", "learn", *arguments]
    return subprocess.run(command, capture_output=True, timeout=100, check=False)


def test_the_command_reports_every_learner_in_every_step(tmp_path: Path) -> None:
    stream = _separable(60)
    file = tmp_path / "some table.csv"
    lines = [f"{a:.6f},{b:.6f},{label}" for (a, b), label in zip(stream.events.numbers, stream.labels, strict=True)]
    file.write_text("a,b,answer\n" + "\n".join(lines) + "\n")

    done = _command("--json", "--stream", str(file), "--label", "answer", "--prefix", "20", "--seconds", "5")

    assert done.returncode == 0, done.stderr.decode()
    plain = msgspec.json.decode(done.stdout)
    assert [(found["name"], found["step"]) for found in plain["streams"]] == [("some table", 1), ("some table", 32)]
    for found in plain["streams"]:
        assert found.keys() == {"name", "step", "rows"}
        assert [row["model"] for row in found["rows"]] == [OURS, *PEERS]
        for row in found["rows"]:
            slow = LEARNERS[row["model"]].is_slow
            assert row.keys() == (ROW | {"events"} if slow else ROW), row
            assert row["events_per_s"] > 0
            assert row["memory_mb"] >= 0
            if slow:
                assert row["events"] == (20 if found["step"] == 1 else 32)
    assert msgspec.json.decode(done.stdout, type=Report).machine.cores >= 1
    assert b"penstock" in done.stderr


def test_the_command_prints_tables_and_says_what_is_left_out() -> None:
    done = _command("--streams", "phishing,electricity", "--limit", "40", "--step", "32", "--peers", "no_change")

    assert done.returncode == 0, done.stderr.decode()
    text = done.stdout.decode()
    assert "phishing, steps of 32: 40 events, 9 features, 2 classes" in text
    assert "electricity is left out" in text
    assert "Ours and the best peer" in text


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--peers", "no_change,nobody"], 2, "there is no 'nobody'; there are river_logistic"),
        (["--streams", "nowhere"], 2, "there is no 'nowhere'; there are electricity"),
        (["--step", "0"], 2, "'0' is no number of events"),
        (["--label", "y"], 2, "--stream"),
        (["--streams", "electricity", "--peers", "none"], 1, "None of the streams"),
        (["--stream", "/nonexistent/table.csv"], 1, "No such file"),
    ],
)
def test_faults_on_the_command_line_are_named(arguments: list[str], code: int, said: str) -> None:
    done = _command(*arguments)

    assert done.returncode == code
    assert said in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""
