"""A text as tokens, and back no more: what a transformer's base reads, without torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from penstock.errors import BaseMissing, LibraryMissing
from penstock.events import Batch, Schema
from penstock.spec import Spec

PREFIX = "lora:"
"""Begins the name of a transformer in ``consolidate.base``."""
NOTHING = -1
"""Stands behind the last token of a shorter text."""

Ids = NDArray[np.int64]


class Tokens:
    """Reads one text feature of a service."""

    def __init__(self, spec: Spec, text: str, tokenizer: bytes, tokens_max: int) -> None:
        """``tokenizer`` is JSON as the ``tokenizers`` library writes it. Raises LibraryMissing and BaseMissing."""
        try:
            from tokenizers import Tokenizer
        except ImportError as error:
            raise LibraryMissing(purpose="Reading a text", library="tokenizers", extra="lora") from error
        try:
            made: Any = Tokenizer.from_str(tokenizer.decode())
        except Exception as error:  # the library, written in Rust, raises nothing narrower
            raise BaseMissing(id="given", reason=f"its tokenizer cannot be read: {error}") from error
        made.enable_truncation(tokens_max)
        made.no_padding()
        self._tokenizer = made
        self._column = Schema.of(spec).strings.index(text)

    def each(self, batch: Batch) -> list[Ids]:
        """The tokens of each event's text, at least one: an empty or missing text is token 0."""
        texts = [text or "" for text in batch.strings[self._column]]
        return [np.array(found.ids or [0], np.int64) for found in self._tokenizer.encode_batch(texts)]

    def matrix(self, batch: Batch, width: int) -> Ids:
        """(n, width) the same, with NOTHING behind the last token of each."""
        ids = np.full((len(batch), width), NOTHING, np.int64)
        for row, found in zip(ids, self.each(batch), strict=True):
            row[: len(found)] = found
        return ids
