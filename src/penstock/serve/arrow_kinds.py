"""What the columns of an Arrow stream may hold, by their types."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


def is_number(kind: Any) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def is_class(kind: Any) -> bool:
    """A class may be written as a text, a whole number, or true and false."""
    return bool(is_text(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind))
