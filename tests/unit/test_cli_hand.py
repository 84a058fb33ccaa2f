"""What may be said with an order, and how the command line says what holds updates back."""

from __future__ import annotations

import click
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.cli.hand import _in_one_line, me
from penstock.cli.status import forgotten_line, hold_line
from penstock.publish.asked.hand import words_for
from penstock.publish.asked.orders import BY_MAX, REASON_MAX, Order


@given(st.text(max_size=40))
def test_whatever_is_said_stands_in_one_line_or_is_refused(text: str) -> None:
    if not " ".join(text.split()).isprintable():
        with pytest.raises(click.UsageError, match="cannot be printed") as refused:
            _in_one_line("--reason", text, REASON_MAX)
        assert refused.value.message.isprintable()
        return
    said = _in_one_line("--reason", text, REASON_MAX)
    assert said.split() == text.split()
    order = Order(what="hold", by="ann", reason=said)
    assert words_for(order, None).isprintable()
    assert msgspec.json.decode(msgspec.json.encode(order), type=Order) == order


@pytest.mark.parametrize("text", ["a\x1b[31mb", "a\nb", "\x00", "\u202e"])
def test_an_order_file_that_would_forge_lines_or_colours_is_not_read(text: str) -> None:
    for forged in ({"by": text}, {"by": "ann", "reason": text}):
        with pytest.raises(msgspec.ValidationError, match="cannot be printed"):
            msgspec.json.decode(msgspec.json.encode({"what": "hold", **forged}), type=Order)


def test_too_much_is_refused_with_how_much_may_be_said() -> None:
    assert _in_one_line("--by", "x" * BY_MAX, BY_MAX) == "x" * BY_MAX
    with pytest.raises(click.UsageError, match="--by has at most 200 characters, not 201"):
        _in_one_line("--by", "x" * (BY_MAX + 1), BY_MAX)


def test_whoever_gives_no_name_has_one() -> None:
    assert me()
    assert me().isprintable()


def test_the_status_says_who_holds_updates_back_or_that_it_is_the_gate() -> None:
    assert hold_line({"held_by": None, "held_why": None}) is None
    assert hold_line({"held_by": None, "held_why": "it does harm."}) == "by the gate: it does harm."
    by_hand = hold_line({"held_by": "ann", "held_why": "sale", "held_since": 0.0})
    assert by_hand is not None
    assert by_hand.startswith("by ann")
    assert by_hand.endswith(": sale")


def test_the_status_says_what_is_forgotten_and_of_what() -> None:
    model = {"forgotten": 0.125, "forgotten_of": "class 'b'", "anchors": 128}
    assert forgotten_line(model) == "0.125 of class 'b', by 128 anchors"
    assert forgotten_line(model | {"forgotten_of": None}) == "0.125, by 128 anchors"
    assert forgotten_line(model | {"forgotten": None}) is None
