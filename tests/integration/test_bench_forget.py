"""`penstock bench forget`: the tasks, the reference methods, the tiers put together, and the command."""

from __future__ import annotations

import gzip
import struct
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest

from penstock.cli.benchmarks.forget import PRELOADED, QUICK, measure
from penstock.cli.benchmarks.forget_data import Amount, Codes, NotThere, Suite, load, read_idx, turned
from penstock.cli.benchmarks.forget_methods import METHODS, OURS, Run, follow
from penstock.cli.benchmarks.forget_metrics import scores
from penstock.cli.benchmarks.forget_ours import BothTiers, Events, FastTier, SlowTier, Variant, specified
from penstock.cli.benchmarks.forget_peers import DarkReplay, Inputs, Naive, OnlineEwc, Replay
from penstock.cli.benchmarks.forget_report import Report, Row, row, tables, words
from penstock.errors import BadFile

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
NOWHERE = Path("/nonexistent")
ROW = {"method", "accuracy", "forgetting", "backward_transfer", "forward_transfer", "seconds"}


def _idx(path: Path, values: np.ndarray) -> None:  # type: ignore[type-arg]
    head = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    path.write_bytes(gzip.compress(head + values.astype(np.uint8).tobytes()))


def _small_mnist(folder: Path) -> None:
    (folder / "mnist").mkdir()
    for part, count in (("train", 40), ("t10k", 20)):
        labels = np.arange(count) % 10
        images = np.zeros((count, 28, 28))
        images[np.arange(count), labels, labels] = 255
        _idx(folder / "mnist" / f"{part}-images-idx3-ubyte.gz", images)
        _idx(folder / "mnist" / f"{part}-labels-idx1-ubyte.gz", labels)


# Tasks ----------------------------------------------------------------------------------------------------------------


def test_images_are_read_as_they_were_written_and_classes_arrive_in_pairs(tmp_path: Path) -> None:
    _small_mnist(tmp_path)
    suite = load("split_mnist", tmp_path, Amount(), seed=0)

    assert suite.name == "split-mnist"
    assert [sorted(set(task.train.labels or ())) for task in suite.tasks] == [  # type: ignore[type-var]
        ["0", "1"],
        ["2", "3"],
        ["4", "5"],
        ["6", "7"],
        ["8", "9"],
    ]
    for task in suite.tasks:
        for batch in (task.train, task.test):
            codes = suite.codes(batch.labels)  # type: ignore[arg-type]
            assert batch.vectors[0].argmax(axis=1).tolist() == (codes * 28 + codes).tolist()
            assert batch.vectors[0].max() == 1.0


def test_permutations_are_of_pixels_one_for_both_parts_and_seeded(tmp_path: Path) -> None:
    _small_mnist(tmp_path)
    suite = load("permuted_mnist", tmp_path, Amount(tasks=3), seed=0)
    again = load("permuted_mnist", tmp_path, Amount(tasks=3), seed=0)
    other = load("permuted_mnist", tmp_path, Amount(tasks=3), seed=1)

    places = []
    for task in suite.tasks:
        of_class = {}
        for batch in (task.train, task.test):
            for label, pixel in zip(batch.labels or (), batch.vectors[0].argmax(axis=1).tolist(), strict=True):
                assert of_class.setdefault(label, pixel) == pixel
        places.append(tuple(pixel for _, pixel in sorted(of_class.items())))
    assert len(set(places)) == 3
    assert places[0] == tuple(code * 29 for code in range(10))
    same = [
        np.array_equal(a.train.vectors[0], b.train.vectors[0]) for a, b in zip(suite.tasks, again.tasks, strict=True)
    ]
    assert all(same)
    assert not np.array_equal(suite.tasks[1].train.vectors[0], other.tasks[1].train.vectors[0])


def test_a_right_angle_turns_rows_into_columns() -> None:
    image = np.zeros((1, 5, 5), np.float32)
    image[0, 0, 3] = 1.0

    found = turned(image.reshape(1, 25), 5, 90.0).reshape(5, 5)

    assert found == pytest.approx(np.rot90(image[0]), abs=1e-6)
    assert np.array_equal(turned(image.reshape(1, 25), 5, 0.0), image.reshape(1, 25))


def test_without_mnist_the_bundled_digits_are_learned_and_named_so() -> None:
    suite = load("rotated_mnist", NOWHERE, Amount(train=30, test=10, tasks=2), seed=0)

    assert suite.name == "rotated-digits"
    assert "no mnist/" in suite.about
    assert [len(task.train) for task in suite.tasks] == [30, 30]
    assert suite.tasks[0].train.vectors[0].shape == (30, 64)


def test_intents_arrive_by_domain(tmp_path: Path) -> None:
    (tmp_path / "clinc150").mkdir()
    said = {
        "train": [["pay it", "pay"], ["play it", "play"], ["stop it", "stop"], ["pay now", "pay"]],
        "test": [["please pay", "pay"], ["please stop", "stop"]],
        "oos_train": [["what", "oos"]],
    }
    (tmp_path / "clinc150" / "data_full.json").write_bytes(msgspec.json.encode(said))
    (tmp_path / "clinc150" / "domains.json").write_bytes(
        msgspec.json.encode({"money": ["pay"], "music": ["play", "stop"]})
    )

    suite = load("clinc150", tmp_path, Amount(), seed=0)

    assert [sorted(task.train.labels or ()) for task in suite.tasks] == [["pay", "pay"], ["play", "stop"]]  # type: ignore[type-var]
    assert [task.test.strings[0] for task in suite.tasks] == [["please pay"], ["please stop"]]
    with pytest.raises(NotThere, match="--data"):
        load("clinc150", NOWHERE, Amount(), seed=0)


def test_damaged_images_are_named(tmp_path: Path) -> None:
    file = tmp_path / "images.gz"
    for content in (b"no gzip", gzip.compress(b"\0\0"), gzip.compress(struct.pack(">HBBI", 0, 8, 1, 9) + b"12345678")):
        file.write_bytes(content)
        with pytest.raises(BadFile, match=r"images\.gz"):
            read_idx(file)


# Reference methods ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Inputs, Codes]]:
    """The bundled digits, two classes at a time, often enough to be learned."""
    suite = load("split_mnist", NOWHERE, Amount(), seed=0)
    return [
        (np.tile(task.train.vectors[0], (5, 1)), np.tile(suite.codes(task.train.labels), 5))  # type: ignore[arg-type]
        for task in suite.tasks
    ]


def _follow(network: Naive, pairs: list[tuple[Inputs, Codes]]) -> Naive:
    for inputs, codes in pairs:
        for at in range(0, len(codes), 32):
            network.learn(inputs[at : at + 32], codes[at : at + 32])
        network.end_task()
    return network


def test_replay_keeps_what_the_naive_network_forgets(pairs: list[tuple[Inputs, Codes]]) -> None:
    inputs, codes = (np.concatenate(parts) for parts in zip(*pairs, strict=True))
    right = {}
    for method in (Naive, Replay, DarkReplay):
        network = _follow(method(64, 10, seed=0), pairs)
        right[method] = float((network.answers(inputs) == codes).mean())

    assert right[Naive] < 0.4
    assert right[Replay] > 0.75
    assert right[DarkReplay] > 0.7


def test_elastic_weights_hold_back_where_the_past_depends_on_them(pairs: list[tuple[Inputs, Codes]]) -> None:
    class Stiff(OnlineEwc):
        strength = 10_000.0

    free, held = _follow(Naive(64, 10, seed=0), pairs[:1]), _follow(Stiff(64, 10, seed=0), pairs[:1])
    assert isinstance(held, Stiff)
    information = [tensor.clone() for tensor in held._information]
    moved = []
    for network in (free, held):
        before = [weight.detach().clone() for weight in network.network.parameters()]
        _follow(network, pairs[1:2])
        apart = [(a - b).detach().square() for a, b in zip(network.network.parameters(), before, strict=True)]
        moved.append(sum(float((f * d).sum()) for f, d in zip(information, apart, strict=True)))

    assert 0 < moved[1] < 0.5 * moved[0]


def test_a_reservoir_keeps_the_same_share_of_early_and_late_events() -> None:
    class Small(Replay):
        room = 200

    network = Small(1, 2, seed=0)
    for number in range(0, 2048, 32):
        network.learn(np.full((32, 1), number / 2048, np.float32), np.zeros(32, np.intp))

    assert network._inputs[:, 0].mean().item() == pytest.approx(0.5, abs=0.08)


# Tiers ----------------------------------------------------------------------------------------------------------------


SHORT = {"steps_max": 200.0}
"""Of training: enough for some hundred digits."""


@pytest.fixture(scope="module")
def digits() -> Suite:
    return load("split_mnist", NOWHERE, Amount(train=100, test=60, tasks=2), seed=0)


def test_a_base_is_trained_on_schedule_and_what_is_served_changes_by_promotion_alone(digits: Suite) -> None:
    variant = Variant(training=SHORT)
    spec = specified(digits, variant, every=120, seed=0)
    both, slow, fast = BothTiers(digits, spec, variant), SlowTier(digits, spec, variant), FastTier(digits, spec)
    assert slow.answers(digits.tasks[0].test).tolist() == [-1] * len(digits.tasks[0].test)
    followed = {name: follow(method, digits, 32) for name, method in (("both", both), ("slow", slow), ("fast", fast))}

    assert slow.events.consolidations == 1
    assert both.events.consolidations >= 1
    assert 0 <= both.events.consolidations - len(both.events.said) <= 1
    assert both.events.promoted + both.events.given_up == len(both.events.said)
    if not both.events.promoted:
        # Until a candidate is promoted, what is served is the fast tier's model, whatever was trained beside it.
        assert np.array_equal(followed["both"][0], followed["fast"][0])
    matrix, looks, seconds = followed["both"]
    assert matrix[0, 1] == 0.0
    assert matrix[0, 0] > 0.9
    assert followed["slow"][0][0].tolist() == [0.0, 0.0]
    assert followed["slow"][0][1, 0] > 0.9
    assert looks[:, 0].tolist() == [1.0] * len(looks)
    assert len(looks) >= 3
    assert seconds > both.events.training_s > 0.0


def test_without_the_gate_every_base_is_promoted(digits: Suite) -> None:
    variant = Variant(gate=False, base_features=False, training=SHORT)
    both = BothTiers(digits, specified(digits, variant, every=120, seed=0), variant)
    matrix, _, _ = follow(both, digits, 32)

    assert both.events.promoted == both.events.consolidations >= 1
    assert both.events.given_up == 0
    assert matrix[-1, 0] > 0.7


def test_variants_reach_the_service_and_the_training() -> None:
    suite = load("split_mnist", NOWHERE, Amount(train=20, tasks=1), seed=0)
    variant = msgspec.convert(METHODS["penstock_ewc_alone"].variant, Variant)
    spec = specified(suite, variant, every=77, seed=5)

    assert (spec.consolidate.every_events, spec.consolidate.ewc, spec.learn.seed) == (77, 1.0, 5)
    assert variant.training == {"alpha": 0.0, "beta": 0.0}
    plain = msgspec.convert(METHODS["penstock_no_random_features"].variant, Variant)
    assert specified(suite, plain, every=1, seed=0).learn.random_features == 0
    assert Events().said == []


# The command ----------------------------------------------------------------------------------------------------------


def test_a_run_that_fails_is_a_row_that_says_so() -> None:
    assert row("naive", [], "crashed: it ran out of memory") == Row(
        method="naive",
        accuracy=None,
        forgetting=None,
        backward_transfer=None,
        forward_transfer=None,
        seconds=None,
        note="crashed: it ran out of memory",
    )
    settings = msgspec.structs.replace(
        QUICK,
        folder=NOWHERE,
        benchmarks=("split_mnist", "clinc150"),
        methods=("naive",),
        run_s=0.0,
    )
    told: list[tuple[str, str, int, int]] = []
    report = measure(settings, "test", lambda _: None, lambda *started: told.append(started))

    assert "timed out" in report.benchmarks[0].rows[0].note
    assert [found.name for found in report.left_out] == ["clinc150"]
    assert told == [("split-digits", "naive", 0, 1)]
    assert "torch" in PRELOADED


def test_runs_at_once_find_what_runs_one_after_the_other_find() -> None:
    settings = msgspec.structs.replace(
        QUICK, folder=NOWHERE, benchmarks=("split_mnist",), methods=("naive", "replay"), seeds=2
    )

    def found(jobs: int) -> list[tuple[str, float | None, list[list[float]] | None]]:
        report = measure(msgspec.structs.replace(settings, jobs=jobs), "test", lambda _: None, lambda *_: None)
        return [(told.method, told.accuracy, told.after_each_task) for told in report.benchmarks[0].rows]

    alone = found(1)
    assert [method for method, _, _ in alone] == ["naive", "replay"]
    assert found(3) == alone


def _command(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "penstock", "bench", "forget", "--data", ".", *arguments]
    return subprocess.run(command, capture_output=True, timeout=110, check=False)


def test_a_row_has_the_means_and_intervals_of_its_runs() -> None:
    runs = []
    for last in (0.5, 0.7):
        matrix = [[0.9, 0.0], [last, 0.8]]
        found = scores(np.array(matrix), 0.1)
        runs.append(Run(name="s", about="", scores=found, matrix=matrix, seconds=2.0, events=100, step=32))
    told = row("naive", runs)

    assert told.accuracy == pytest.approx(0.7)
    assert told.accuracy_interval == pytest.approx(12.706 * 0.05, abs=1e-3)
    assert told.forgetting == pytest.approx(0.3)
    assert told.after_each_task == [[0.9, 0.0], [0.6, 0.8]]
    assert (told.events_per_s, told.consolidations) == (50.0, None)


def test_the_command_reports_every_method() -> None:
    methods = ("replay", OURS)
    few = ("--benchmarks", "split_mnist", "--methods", ",".join(methods), "--events", "48", "--every", "160")
    done = _command("--json", "--quick", *few)

    assert done.returncode == 0, done.stderr.decode()
    plain = msgspec.json.decode(done.stdout)
    assert [found["name"] for found in plain["benchmarks"]] == ["split-digits"]
    rows = plain["benchmarks"][0]["rows"]
    assert [row["method"] for row in rows] == list(methods)
    for found in rows:
        assert found.keys() >= ROW, found
        assert found["seconds"] > 0
        assert 0 <= found["least_accuracy"] <= 1
    assert rows[1]["consolidations"] >= 1
    assert msgspec.json.decode(done.stdout, type=Report).seeds == 1
    assert b"split-digits: penstock" in done.stderr
    report = msgspec.json.decode(done.stdout, type=Report)
    ((title, table),) = tables(report).items()
    assert title.startswith("split-digits: 4 tasks")
    assert [line["method"] for line in table] == list(methods)
    assert words(report)[0].startswith(f"split-digits: penstock {rows[1]['accuracy']:.4f}; the best other method is")


def test_methods_and_benchmarks_that_there_are_not_are_named() -> None:
    for option in ("--methods", "--benchmarks"):
        wrong = _command(option, "magic")
        assert wrong.returncode == 2
        assert b"there is no 'magic'; there are" in wrong.stderr
