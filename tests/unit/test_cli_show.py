"""The one way in which lists and records are shown."""

from __future__ import annotations

import json

import pytest

from penstock.cli.show import say, show, show_record, words

ROWS = [{"name": "a", "events": {"accepted": 1234567}, "loss": 0.123456}, {"name": "bee", "events": {}, "loss": None}]
COLUMNS = (("name", "NAME"), ("events.accepted", "ACCEPTED"), ("loss", "LOSS"))


def test_a_table_aligns_names_left_and_numbers_right(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS, COLUMNS)
    assert capsys.readouterr().out.splitlines() == [
        "NAME   ACCEPTED    LOSS",
        "a     1,234,567  0.1235",
        "bee           -       -",
    ]


def test_programs_get_what_the_server_said(capsys: pytest.CaptureFixture[str]) -> None:
    show(ROWS, COLUMNS, json=True)
    assert json.loads(capsys.readouterr().out) == ROWS
    show(ROWS, COLUMNS, csv=True)
    assert capsys.readouterr().out == "name,events.accepted,loss\na,1234567,0.123456\nbee,,\n"


def test_an_empty_list_is_a_header_and_an_empty_array(capsys: pytest.CaptureFixture[str]) -> None:
    show([], COLUMNS)
    assert capsys.readouterr().out == "NAME  ACCEPTED  LOSS\n"
    show([], COLUMNS, json=True)
    assert capsys.readouterr().out == "[]\n"


def test_a_record_shows_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    show_record(ROWS[1], COLUMNS)
    assert capsys.readouterr().out == "NAME  bee\n"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (2e299, "2e+299"),
        (-3.5e7, "-35,000,000"),
        (float("inf"), "inf"),
        (0.25, "0.25"),
        (1e-9, "1e-09"),
        (12345678.0, "12,345,678"),
        (True, "yes"),
        ({"a": 0.5}, "a: 0.5"),
        ([1, 2], "1, 2"),
    ],
)
def test_values_are_written_for_people(value: object, text: str) -> None:
    assert words(value) == text


def test_nothing_that_others_have_written_moves_the_cursor_or_begins_a_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    hostile = "x\x1b[2J\nis well\r\u202e\x07"
    show([{"name": hostile}], (("name", "NAME"),))
    show_record({"name": hostile, "all": [hostile]}, (("name", "NAME"), ("all", "ALL")))
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) == 4
    assert not {"\x1b", "\r", "\u202e", "\x07"} & set(shown)
    say(f"{hostile}\n")
    assert capsys.readouterr().err == "x\\x1b[2J\nis well\\r\\u202e\\x07\n\n", "its own lines stay lines"
