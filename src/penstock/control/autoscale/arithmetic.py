"""Numbers as the controller counts them: doubles and integers of 32 and 64 bits are part of its rules.

44 % used of a target of 20 % over 25 pods is 56 pods, because 44/20 as a double is a little more than 2.2; exact
arithmetic would say 55."""

from __future__ import annotations

import math

INT32_MAX = 2**31 - 1
INT32_MIN = -(2**31)
INT64_MAX = 2**63 - 1


def ratio(numerator: int, denominator: float) -> float:
    """A quotient of doubles in which dividing by zero is infinite, or not a number for 0/0."""
    dividend = float(numerator)
    if denominator:
        return dividend / denominator
    return math.nan if dividend == 0.0 else math.copysign(math.inf, dividend)


def quotient(total: int, count: int) -> int:
    """A quotient of integers, without its fraction: towards zero, for negative totals too."""
    return total // count if total >= 0 else -(-total // count)


def ceiling(value: float) -> int:
    """The next integer, at most what 32 bits hold."""
    return INT32_MAX if value > INT32_MAX else math.ceil(value)
