"""A transformer as a base: low-rank adapters are trained beside its frozen weights, and merged into them for export.

``consolidate.base`` is ``lora:`` and either a folder with a Hugging Face transformer and its fast tokenizer, or
``package.module:name``, something that is called without arguments and returns both. It reads the service's first text
feature. A text's embedding is the mean of its tokens' last hidden states, normalised; where that is wider than
FEATURES_MAX, a layer that is trained with the adapters (Hu et al. 2022, "LoRA") makes it narrower.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from penstock.errors import LibraryMissing, TrainingFailed

FEATURES_MAX = 128
RANK = 8
SCALE = 16
"""Of the adapters, in units of 1/RANK: their product counts double."""
TOKENS_MAX = 128
"""Tokens of a text that are read at most, if the transformer takes as many."""


class TextNetwork(nn.Module):
    """From (n, tokens) tokens, with `penstock.learn.slow.tokens.NOTHING` behind the last of each text, to features and
    outputs."""

    def __init__(self, transformer: nn.Module, hidden: int, outputs: int) -> None:
        super().__init__()
        self.transformer = transformer
        width = min(hidden, FEATURES_MAX)
        self.narrow = nn.Linear(hidden, width) if width < hidden else nn.Identity()
        self.last = nn.Linear(width, outputs)

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        there = inputs.ge(0)
        answer = self.transformer(input_ids=inputs.clamp(min=0), attention_mask=there.to(torch.int64))
        weights = there.unsqueeze(-1).to(torch.float32)
        mean = (answer.last_hidden_state * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
        features = functional.layer_norm(self.narrow(mean), (self.last.in_features,))
        return features, self.last(features)

    def merged(self) -> TextNetwork:
        """The same network with the adapters merged into the transformer's own weights; this one is spent."""
        self.transformer = self.transformer.merge_and_unload()  # type: ignore[operator]
        return self.eval()


def text_network(path: str, outputs: int) -> TextNetwork:
    """The network of this path after ``lora:``, its adapters fresh. Raises LibraryMissing and TrainingFailed."""
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise LibraryMissing(purpose="Tuning a transformer", library="peft", extra="lora") from error
    transformer, _ = found(path)
    adapted: Any = get_peft_model(transformer, LoraConfig(r=RANK, lora_alpha=SCALE, target_modules="all-linear"))
    return TextNetwork(adapted, int(transformer.config.hidden_size), outputs)


def tokenizer_of(path: str) -> tuple[bytes, int]:
    """The tokenizer as JSON, and how many tokens of a text are read. Raises LibraryMissing and TrainingFailed."""
    transformer, tokenizer = found(path)
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    longest = int(getattr(transformer.config, "max_position_embeddings", TOKENS_MAX))
    try:
        written: str = backend.to_str()
    except AttributeError as error:
        raise TrainingFailed(reason=f"{path} has no fast tokenizer: {type(tokenizer).__name__}") from error
    # Some transformers count positions from 2 on.
    return written.encode(), min(TOKENS_MAX, longest - 2)


def found(path: str) -> tuple[Any, Any]:
    """The transformer and its tokenizer."""
    try:
        import transformers
    except ImportError as error:
        raise LibraryMissing(purpose="Tuning a transformer", library="transformers", extra="lora") from error
    module, colon, name = path.partition(":")
    try:
        if colon and not Path(path).exists():
            transformer, tokenizer = getattr(importlib.import_module(module), name)()
        else:
            transformer = transformers.AutoModel.from_pretrained(path, local_files_only=True)
            tokenizer = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
    except Exception as error:  # it is the user's code or folder: whatever it raises is why there is no network
        raise TrainingFailed(reason=f"{path} made no transformer: {type(error).__name__}: {error}") from error
    return transformer, tokenizer
