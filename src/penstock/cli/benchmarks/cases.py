"""Cases in a file: inputs of a decider with what it should say, run one by one.

A file is ``{"cases": [{"id", "kind", "name", "input", "expect"}]}``; what an input holds depends on its kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from penstock.errors import BadFile

Runner = Callable[[Any], dict[str, Any]]
"""What a decider says to one input, with the keys under which cases expect it."""


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One case."""

    id: str
    kind: str
    name: str = ""
    input: dict[str, Any]
    expect: dict[str, Any]


class File(msgspec.Struct, frozen=True, kw_only=True):
    """What is read of a file of cases."""

    cases: list[Case]


class Failed(msgspec.Struct, frozen=True, kw_only=True):
    """A case that the decider does not agree with."""

    id: str
    kind: str
    name: str
    expected: dict[str, Any]
    got: dict[str, Any] | None = None
    reason: str = ""
    """Why it could not be run, where it could not."""


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of all cases of a file."""

    cases: int
    passed: int
    failed: list[Failed]


def read(path: Path) -> list[Case]:
    """The cases of a file. One without cases, or with one that is no case, is refused."""
    try:
        cases = msgspec.json.decode(path.read_bytes(), type=File).cases
    except OSError as error:
        raise BadFile(path, error.strerror or str(error)) from error
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise BadFile(path, f"this is no file of cases: {error}") from error
    if not cases:
        raise BadFile(path, "there are no cases in it")
    return cases


def run(path: Path, kinds: Mapping[str, tuple[type[msgspec.Struct], Runner]]) -> Outcome:
    """Run every case of a file against the deciders of these kinds."""
    cases = read(path)
    failed = [found for case in cases if (found := _failure(case, kinds)) is not None]
    return Outcome(cases=len(cases), passed=len(cases) - len(failed), failed=failed)


def merged(outcomes: Sequence[Outcome]) -> Outcome:
    """Several files as one."""
    return Outcome(
        cases=sum(each.cases for each in outcomes),
        passed=sum(each.passed for each in outcomes),
        failed=[failed for each in outcomes for failed in each.failed],
    )


def _failure(case: Case, kinds: Mapping[str, tuple[type[msgspec.Struct], Runner]]) -> Failed | None:
    def failed(got: dict[str, Any] | None = None, reason: str = "") -> Failed:
        return Failed(id=case.id, kind=case.kind, name=case.name, expected=case.expect, got=got, reason=reason)

    if case.kind not in kinds:
        return failed(reason=f"there is no kind {case.kind!r}; there are {', '.join(sorted(kinds))}")
    shape, decide = kinds[case.kind]
    try:
        given = msgspec.convert(case.input, shape, str_keys=True)
    except msgspec.ValidationError as error:
        return failed(reason=f"its input is no {case.kind}: {error}")
    try:
        got = decide(given)
    except re.error as error:
        return failed(reason=f"a pattern in it is no regular expression: {error}")
    except (ArithmeticError, ValueError) as error:
        # A cluster refuses such numbers before anything is decided, such as a target of zero.
        return failed(reason=f"its numbers give no answer: {error}")
    agreed = all(_agree(value, got, key) for key, value in case.expect.items())
    return None if agreed else failed(got)


def _agree(expected: Any, got: Mapping[str, Any], key: str) -> bool:
    if key == "error_contains":
        return isinstance(got.get("error"), str) and str(expected) in got["error"]
    if key == "error":
        return bool(got.get("error")) is bool(expected)
    if got.get("error") or key not in got:
        return False
    found = got[key]
    if isinstance(expected, float) and isinstance(found, (int, float)):
        return abs(found - expected) <= 1e-9 * max(1.0, abs(expected))
    if isinstance(expected, list) and key in ("unready", "missing", "ignored", "best"):
        return sorted(map(repr, found)) == sorted(map(repr, expected))
    # None stands for "not stated".
    return (expected is None and key == "history") or bool(found == expected)
