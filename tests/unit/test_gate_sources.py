"""One source that contradicts all others in a flood is found; nobody else ever is."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from penstock.gate.sources import SOURCES_MAX, SourceWatch

Losses = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def feed(
    watch: SourceWatch, rng: np.random.Generator, n: int, mix: dict[str | None, tuple[float, float]]
) -> int | None:
    """Events of sources with these (share, mean loss), one a step; the event at which the first flood was found."""
    names = list(mix)
    found = None
    for event in range(n):
        source = names[int(rng.choice(len(names), p=[mix[name][0] for name in names]))]
        mean = mix[source][1]
        watch.take([source], rng.beta(4 * mean, 4 * (1 - mean), 1))
        if watch.floods and found is None:
            found = event
    return found


def test_a_flood_of_contradicting_labels_is_found_soon_told_and_ends_soon() -> None:
    rng = np.random.default_rng(1)
    watch = SourceWatch(0.05, 1024)
    assert feed(watch, rng, 2000, {"shop": (0.7, 0.1), "phone": (0.3, 0.15)}) is None
    found = feed(watch, rng, 300, {"shop": (0.2, 0.1), "phone": (0.1, 0.15), "stranger": (0.7, 0.9)})
    assert found is not None
    assert found <= 50
    assert watch.floods == ["stranger"]
    assert "'stranger'" in watch.described()
    believed = watch.take(["shop", "stranger", "phone", "stranger"], np.array([0.1, 0.9, 0.1, 0.2]))
    assert believed is not None
    assert believed.tolist() == [True, False, True, False]
    feed(watch, rng, 200, {"shop": (0.7, 0.1), "phone": (0.3, 0.15)})
    assert watch.floods == []
    assert watch.described() == ""


def test_the_same_flood_in_large_steps_is_found() -> None:
    rng = np.random.default_rng(2)
    watch = SourceWatch(0.05, 1024)
    for _ in range(10):
        watch.take(["shop", "phone"] * 50, rng.beta(1, 9, 100))
    losses = np.where(np.arange(100) % 2 == 0, rng.beta(1, 9, 100), 0.9)
    believed = watch.take(["shop", "stranger"] * 50, losses)
    assert believed is not None
    assert believed.tolist() == [True, False] * 50


@pytest.mark.parametrize("sources", [None, ["only"]])
def test_where_there_is_one_source_or_none_nobody_is_suspected(sources: list[str | None] | None) -> None:
    watch = SourceWatch(0.05, 1024)
    for losses in (np.full(1, 0.05), np.full(1, 1.0)):
        for _ in range(500):
            assert watch.take(sources, losses) is None


def test_a_source_that_differs_as_all_do_is_believed() -> None:
    rng = np.random.default_rng(3)
    watch = SourceWatch(0.05, 1024)
    calm: dict[str | None, tuple[float, float]] = {"shop": (0.5, 0.1), "phone": (0.4, 0.15), None: (0.1, 0.2)}
    changed: dict[str | None, tuple[float, float]] = {"shop": (0.5, 0.8), "phone": (0.4, 0.8), None: (0.1, 0.8)}
    assert feed(watch, rng, 1500, calm) is None
    # The concept changes for everyone: everyone loses, so that nobody contradicts all others.
    assert feed(watch, rng, 1500, changed) is None
    # The same in steps of hundreds.
    watch = SourceWatch(0.05, 1024)
    for losses in (np.full(300, 0.1), np.full(300, 0.1), np.full(300, 0.8)):
        assert watch.take(["shop", "phone", None] * 100, losses) is None


def test_the_source_of_most_events_is_the_stream() -> None:
    rng = np.random.default_rng(8)
    watch = SourceWatch(0.05, 1024)
    assert feed(watch, rng, 1000, {"shop": (0.97, 0.1), "phone": (0.03, 0.1)}) is None
    assert feed(watch, rng, 1000, {"shop": (0.97, 0.8), "phone": (0.03, 0.8)}) is None


CALM = {"shop": 0.1, "phone": 0.15, "web": 0.1}


def tell(
    watch: SourceWatch, rng: np.random.Generator, n: int, served: dict[str, float], good: dict[str, float]
) -> list[bool]:
    """Single events in turn of sources with these mean losses by what is served and by the last known good version;
    which of those of ``web`` were believed."""
    names, believed = list(served), []
    for source in rng.choice(names, n).tolist():
        means = np.array([served[source], good[source]])
        losses = rng.beta(4 * means, 4 * (1 - means))
        told = watch.take([source], losses[:1], losses[1:])
        if source == "web":
            believed.append(told is None or bool(told[0]))
    return believed


def test_a_change_that_one_source_alone_reports_is_learned_in_the_end_and_is_believed_then() -> None:
    rng, watch = np.random.default_rng(4), SourceWatch(0.05, 200)
    changed = CALM | {"web": 0.9}
    tell(watch, rng, 600, CALM, CALM)
    tell(watch, rng, 100, changed, changed)
    assert watch.floods == ["web"]
    aside = 0
    while watch.floods:
        aside += tell(watch, rng, 20, changed, changed).count(False)
    assert 150 <= aside <= 200
    # What has learned from it is right of it by now, the last known good version of before is not.
    assert all(tell(watch, rng, 3000, CALM, changed))


def test_the_patience_doubles_with_who_contradicts_though_the_model_has_learned_from_it() -> None:
    rng, watch = np.random.default_rng(5), SourceWatch(0.05, 50)
    tell(watch, rng, 600, CALM, CALM)
    believed = tell(watch, rng, 12_000, CALM | {"web": 0.9}, CALM)
    ends = [at for at in range(1, len(believed)) if believed[at] and not believed[at - 1]]
    begins = [at for at in range(1, len(believed)) if believed[at - 1] and not believed[at]]
    lengths = [end - begin for begin, end in zip(begins, ends, strict=False)]
    assert lengths[:4] == [49, 99, 199, 399]
    assert np.mean(believed[-1000:]) < 0.1


def test_who_lies_is_found_where_the_last_known_good_version_is_wrong_of_everybody() -> None:
    wrong = dict.fromkeys(CALM, 0.9)
    for seed in range(20):
        rng, watch = np.random.default_rng([6, seed]), SourceWatch(0.05, 1000)
        tell(watch, rng, 600, CALM, wrong)
        believed = tell(watch, rng, 400, CALM | {"web": 0.75}, wrong)
        assert watch.floods == ["web"]
        assert 5 <= believed.count(True) <= 40


def test_what_the_model_expected_to_be_wrong_of_speaks_against_nobody() -> None:
    for expected in (0.35, 0.0):
        rng, watch = np.random.default_rng(7), SourceWatch(0.05, 1000)
        for source in rng.choice(["shop", "phone", "web"], 6000).tolist():
            mean, told = (0.35, expected) if source == "web" else (0.05, 0.05)
            watch.take([source], rng.beta(4 * mean, 4 * (1 - mean), 1), None, np.array([told]))
            if watch.floods:
                break
        assert watch.floods == ([] if expected else ["web"])


def test_a_source_that_agrees_again_is_believed_again() -> None:
    rng = np.random.default_rng(5)
    watch = SourceWatch(0.05, 10_000)
    feed(watch, rng, 500, {"shop": (0.7, 0.1), "phone": (0.3, 0.15)})
    assert feed(watch, rng, 200, {"shop": (0.6, 0.1), "phone": (0.4, 0.9)}) is not None
    assert watch.floods == ["phone"]
    feed(watch, rng, 300, {"shop": (0.6, 0.1), "phone": (0.4, 0.1)})
    assert watch.floods == []


def test_sources_without_end_take_no_memory_without_end() -> None:
    watch = SourceWatch(0.05, 100)
    for start in range(0, 5000, 500):
        watch.take([f"source-{i}" for i in range(start, start + 500)], np.linspace(0, 1, 500))
    assert len(watch.save()["sources"]) <= SOURCES_MAX
    assert len(watch.save()["sums"]) <= SOURCES_MAX


def test_saved_state_goes_on_to_the_byte() -> None:
    rng = np.random.default_rng(6)
    watch = SourceWatch(0.05, 300)
    names = ["a", "b", None, *(f"s{i}" for i in range(SOURCES_MAX + 20))]
    for step in range(400):
        n = int(rng.integers(1, 6))
        few = names if step % 50 == 0 else names[:3]
        sources = [few[int(i)] for i in rng.integers(0, len(few), n)]
        losses = np.array([0.95 if s == "b" and 150 < step < 260 else 0.1 for s in sources])
        other = SourceWatch(0.05, 300)
        other.load(msgspec.msgpack.decode(msgspec.msgpack.encode(watch.save())))
        mine, others = watch.take(sources, losses), other.take(sources, losses)
        assert (mine is None) == (others is None)
        assert other.save() == watch.save()


def test_a_state_of_before_what_is_served_was_asked_begins_anew() -> None:
    watch = SourceWatch(0.05, 300)
    watch.load(
        {
            "sources": ["a", "b"],
            "sums": [[40.0, 4.0, 9.0, 1.0]] * 2,
            "looked_at": 2,
            "processes": [],
            "floods": [["b", 9]],
        }
    )
    assert watch.floods == []
    assert watch.take(["a", "b"], np.array([0.1, 0.9])) is None
