"""Which members a block does without, as everybody who has the block can read it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from numpy.typing import NDArray

LEFT_OUT = "outside.left_out"


def left_out_of(arrays: Mapping[str, NDArray[Any]]) -> dict[str, str]:
    """The members of a block that are left out, by name, each with its reason."""
    if LEFT_OUT not in arrays:
        return {}
    return msgspec.json.decode(arrays[LEFT_OUT].tobytes(), type=dict[str, str])
