"""Errors as RFC 9457 problem details: what went wrong, where, and what to do about it."""

from __future__ import annotations

import re

import msgspec

from penstock.errors import BadEvent, PenstockError

PROBLEM_TYPE = "application/problem+json"
RETRY_AFTER_S = 1
"""Seconds that a client is asked to wait after a 503: the time in which a queue drains or a learner starts."""


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of several faults of a request."""

    detail: str
    pointer: str = ""
    row: int | None = None


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The body of every answer that is not a success."""

    type: str
    """A URI that names the kind of error."""
    title: str
    """The kind of error in words."""
    status: int
    detail: str
    """This error."""
    pointer: str = ""
    """A JSON pointer to the field at fault."""
    row: int | None = None
    """The event at fault, counted from 0."""
    hint: str = ""
    """What to do about it."""
    retryable: bool = False
    """Whether the same request may succeed later."""
    faults: list[Fault] = []
    """Further faults of the same request."""


_encode = msgspec.json.Encoder().encode


def name_of(error: PenstockError) -> str:
    """The kind of an error, such as ``bad-event``."""
    return re.sub(r"(?<!^)(?=[A-Z])", "-", type(error).__name__).lower()


def encoded(error: PenstockError) -> bytes:
    """The problem document of this error."""
    name = name_of(error)
    bad = error if isinstance(error, BadEvent) else None
    return _encode(
        Problem(
            type=f"urn:penstock:problem:{name}",
            title=name.replace("-", " ").capitalize(),
            status=error.status,
            detail=_sentence(str(error)),
            pointer=bad.pointer if bad else "",
            row=bad.row if bad else None,
            hint=error.advice,
            retryable=error.retryable,
            faults=[Fault(_sentence(str(other)), other.pointer, other.row) for other in bad.others] if bad else [],
        )
    )


def internal(reference: str) -> bytes:
    """The problem document of a defect of ours; what it was stands in the server's log, under the reference."""
    return _encode(
        Problem(
            type="urn:penstock:problem:internal",
            title="Internal error",
            status=500,
            detail="The server failed on this request",
            hint=f"The server's log has the details under {reference}. Nothing from this request was acknowledged.",
        )
    )


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
