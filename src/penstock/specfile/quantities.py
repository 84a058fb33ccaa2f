"""Numbers, durations and sizes as the file writes them, read and written to the same number to the last bit."""

from __future__ import annotations

import math
import re
from typing import Literal

NUMBER_MAX_CHARACTERS = 40

_INTEGER = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+(?:_[0-9]+)*(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"[+]?\.?inf(?:inity)?", re.IGNORECASE)
_QUANTITY = re.compile(rf"({_NUMBER.pattern})\s*([A-Za-z]*)")

_SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_BYTES = {
    "": 1,
    "B": 1,
    "kB": 10**3,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}


Unit = Literal["", "s", "ms", "bytes"]
"""What the name of a field of the structs ends in; "" for a plain number."""


def setting_name(field: str) -> str:
    """What a struct's field is called in the file: without its unit."""
    unit = setting_unit(field)
    return field.removesuffix(f"_{unit}") if unit else field


def setting_unit(field: str) -> Unit:
    """The unit that a field's name ends in, or nothing."""
    units: tuple[Unit, ...] = ("ms", "s", "bytes")
    return next((unit for unit in units if field.endswith(f"_{unit}")), "")


def number(text: str, is_quoted: bool) -> float | int | None:
    """The number that a scalar is, or None; an infinity may have quotes, as it must in JSON."""
    text = text.strip()
    if _INFINITY.fullmatch(text):
        return math.inf
    if is_quoted or len(text) > NUMBER_MAX_CHARACTERS:
        return None
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _NUMBER.fullmatch(text) else None


def is_quantity(text: str) -> bool:
    """Whether this is a number with or without a unit, in the file's way of writing."""
    return _QUANTITY.fullmatch(text) is not None


def quantity(text: str, unit: Unit) -> float | int | None:
    """A duration in the field's unit or a size in bytes; a number without unit is seconds or bytes."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None or len(match[0]) > NUMBER_MAX_CHARACTERS:
        return None
    count = int(match[1]) if _INTEGER.fullmatch(match[1]) else float(match[1])
    if unit == "bytes":
        size = _BYTES.get(match[2])
        return None if size is None else count * size if isinstance(count, int) else _rounded(count * size)
    if match[2] == "ms":
        return count if unit == "ms" else count / 1000
    seconds = _SECONDS.get(match[2] or "s")
    if seconds is None:
        return None
    return count * seconds * 1000 if unit == "ms" else count * seconds


def _rounded(value: float) -> float:
    return round(value) if math.isfinite(value) else value


def written(value: float, unit: Unit) -> str:
    """A number as the file has it, such that reading it gives the same number to the last bit."""
    if unit == "ms" and math.isfinite(value):
        return f"{digits(value)}ms"
    if unit == "s" and math.isfinite(value):
        whole = 0 < value < 1e12 and value == int(value)
        return next((f"{int(value) // n}{u}" for u, n in _LONG_UNITS if whole and value % n == 0), f"{digits(value)}s")
    if unit == "bytes":
        sizes = ((name, _BYTES[name]) for name in ("TiB", "GiB", "MiB", "KiB"))
        return next((f"{int(value) // n}{u}" for u, n in sizes if value and value % n == 0), f"{value}B")
    return digits(value)


_LONG_UNITS = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))


def digits(value: float) -> str:
    return str(int(value)) if math.isfinite(value) and value == int(value) and abs(value) < 1e15 else repr(value)
