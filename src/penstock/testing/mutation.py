"""Input that is almost right: bytes as they should be, with a few changes that a seed decides about."""

from __future__ import annotations

import random
from collections.abc import Sequence

EDITS_MAX = 4


def mutated(seed: int, whole: bytes, pieces: Sequence[bytes] = ()) -> bytes:
    """The bytes with up to EDITS_MAX changes: bits flipped, stretches left out, doubled, moved or overwritten, numbers
    made extreme, and these pieces put in."""
    chance = random.Random(seed)
    body = bytearray(whole)
    for _ in range(chance.randint(1, EDITS_MAX)):
        at = chance.randint(0, len(body))
        length = min(chance.choice((1, 2, 4, 8, 40)), len(body) - at)
        match chance.randrange(7):
            case 0 if length:
                body[at] ^= 1 << chance.randrange(8)
            case 1:
                del body[at : at + length]
            case 2:
                body[at:at] = body[at : at + length]
            case 3:
                start = chance.randint(0, len(body) - length)
                body[at : at + length] = body[start : start + length]
            case 4:
                body[at : at + length] = chance.choice((b"\0", b"\xff", b"\x7f", b"\x80")) * length
            case 5:
                del body[at:]
            case _:
                put = chance.choice(pieces) if pieces else chance.randbytes(length)
                body[at : at + chance.randint(0, len(put))] = put
    return bytes(body)
