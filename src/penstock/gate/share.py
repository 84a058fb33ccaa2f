"""Who belongs to a share of the traffic. Servers ask this too, and load nothing else of the gate for it."""

from __future__ import annotations

import hashlib


def place_of(key: str, seed: str) -> float:
    """Where a key stands between 0 and 1: a function of the two alone, and even over keys."""
    hashed = hashlib.blake2b(key.encode(), digest_size=8, key=seed.encode()[:64]).digest()
    return int.from_bytes(hashed, "little") / 2.0**64


def is_within(key: str, seed: str, share: float) -> bool:
    """Whether what has this key belongs to the share. Whatever belongs to one belongs to every larger one."""
    return place_of(key, seed) < share
