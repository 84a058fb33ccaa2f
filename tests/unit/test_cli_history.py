"""What the command line says of each thing that can happen to a service."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from penstock import facts
from penstock.cli.history import told
from penstock.events import Offset, Partition, Version

WHERE = {"at": 1.0, "service": "orders"}
BASE = {"number": 2, "base": "0123456789abcdef"}
ONE, TWO, NINE = Version(1), Version(2), Version(9)
ALL: Sequence[tuple[facts.Fact, str]] = (
    (facts.Published(**WHERE, version=TWO, parent=ONE, events=1), "Learned 1 event more than version 1."),
    (facts.Held(**WHERE, version=TWO, reason="The update is held back: x."), "The update is held back: x."),
    (
        facts.RolledBack(**WHERE, version=NINE, withdrawn=TWO, restored=ONE, reason="Harm."),
        "Version 2 is withdrawn, and 1 restored: Harm.",
    ),
    (facts.Ordered(**WHERE, what="hold", by="ann", why="", told="Held by ann.", version=TWO), "Held by ann."),
    (
        facts.OrderRefused(**WHERE, what="roll_back", by="ann", why="", told="Version 7 is not kept", version=TWO),
        "ann ordered 'roll back' in vain: Version 7 is not kept.",
    ),
    (
        facts.SetAside(**WHERE, source="a", reason="flood", events=4, told="too many"),
        "Set aside, 4 events of source 'a' by now: too many",
    ),
    (
        facts.TakenOut(**WHERE, version=TWO, source=None, events=1, reason="It lies."),
        "Taken out of the model, 1 event of no source: It lies.",
    ),
    (facts.Released(**WHERE, source="a", events=3), "Learned after all, 3 events of source 'a'."),
    (
        facts.Dropped(**WHERE, events=2, expired=True),
        "Never to be learned, 2 events that had been set aside: there was no more room.",
    ),
    (facts.Erased(**WHERE, number=1, first=TWO, last=NINE), "Erasure 1 withdrew versions 2 to 9."),
    (
        facts.Corrected(**WHERE, version=TWO, events=1, again=3, named=((Partition(0), Offset(1)),)),
        "Labels of 1 event were made good; 3 were learned again for it.",
    ),
    (facts.Restarted(**WHERE, process="learner", replayed_events=7), "The learner came back and repeated 7 events."),
    (
        facts.TailCut(**WHERE, partition=0, bytes_cut=12),
        "12 bytes that nobody was told of were cut from partition 0.",
    ),
    (
        facts.CheckpointUnreadable(**WHERE, folder="x/3", reason="torn"),
        "x/3 could not be read, and an older checkpoint was: torn",
    ),
    (
        facts.Drifted(**WHERE, before=0.1, after=0.3, events=64),
        "The loss rose for good, from 0.1 to 0.3, 64 events ago.",
    ),
    (
        facts.InputsDrifted(**WHERE, base="0123456789abcdef", feature="price", index=0.41, events=512),
        "Inputs have left what base 0123456789ab was trained on: 'price' (index 0.41, on 512 events).",
    ),
    (
        facts.PredictionsDrifted(**WHERE, column="classes", index=0.41, events=1024),
        "What is answered is distributed otherwise than before: classes (index 0.41, on 1,024 events).",
    ),
    (
        facts.Consolidated(**WHERE, **BASE, cause="drift", trained=5000, seconds=12.0, cpu_s=9.0),
        "Number 2, base 0123456789ab, stands ready: trained on 5,000 events, in 12 s (drift).",
    ),
    (
        facts.ShadowStarted(**WHERE, **BASE, version=TWO),
        "Number 2, base 0123456789ab, learns in shadow beside version 2.",
    ),
    (
        facts.Widened(**WHERE, **BASE, version=TWO, share=0.1, events=64, reason="A gain."),
        "Number 2, base 0123456789ab, answers 0.1 of the traffic: A gain.",
    ),
    (
        facts.Promoted(**WHERE, **BASE, version=TWO, events=64, reason="Better."),
        "Number 2, base 0123456789ab, after 64 events in shadow: Better.",
    ),
    (
        facts.GivenUp(**WHERE, **BASE, events=0, reason="Worse."),
        "Number 2, base 0123456789ab, after 0 events in shadow: Worse.",
    ),
    (
        facts.RaceEnded(**WHERE, what="behind", of="rules", version=TWO, events=512, reason="Behind."),
        "Behind.",
    ),
)


@pytest.mark.parametrize(("fact", "expected"), ALL)
def test_each_fact_is_a_sentence(fact: facts.Fact, expected: str) -> None:
    assert told(msgspec.json.decode(msgspec.json.encode(fact))) == expected


def test_no_fact_is_without_one() -> None:
    assert {type(fact).__struct_config__.tag for fact, _ in ALL} == set(facts.KINDS)
