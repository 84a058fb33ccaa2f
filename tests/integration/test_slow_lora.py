"""A tiny transformer as the base of a service that reads texts: tuned through adapters, evaluated without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from penstock.errors import TrainingFailed
from penstock.events import Batch, Kind
from penstock.learn.slow.artifact import Artifact, unpacked
from penstock.learn.slow.base import LocalBases, OnnxBase
from penstock.learn.slow.rebuild import rebuild
from penstock.learn.slow.reservoir import Reservoir
from penstock.learn.slow.train import Training, train_base
from penstock.spec import ClassName, Consolidate, Feature, Spec

WORDS = {
    "pay": ("card", "money", "invoice", "bank"),
    "travel": ("flight", "hotel", "train", "visa"),
    "food": ("bread", "cheese", "menu", "cook"),
}
FILLERS = ("please", "help", "me", "with", "my", "the", "a", "today")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")


def tokenizer() -> Tokenizer:
    words = [*FILLERS, *(word for words in WORDS.values() for word in words)]
    made = Tokenizer(models.WordLevel({"?": 0, **{word: i + 1 for i, word in enumerate(words)}}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def transformer() -> Any:
    torch.manual_seed(0)
    return BertModel(
        BertConfig(
            vocab_size=32,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=18,
        )
    )


def tiny() -> tuple[Any, Any]:
    return transformer(), tokenizer()


def spec(base: str) -> Spec:
    features = {"n": Feature(type="number"), "said": Feature(type="text", buckets=8)}
    return Spec(name="s", task="multiclass", features=features, consolidate=Consolidate(base=base, replay=300))


def texts(n: int, seed: int, classes: tuple[str, ...] = tuple(WORDS)) -> Batch:
    rng = np.random.default_rng(seed)
    labels = [classes[i] for i in rng.integers(0, len(classes), n)]
    said = []
    for label in labels:
        words = [*rng.choice(FILLERS, rng.integers(1, 9)), rng.choice(WORDS[label])]
        said.append(" ".join(rng.permutation(words)))
    return Batch(
        kind=Kind.EXAMPLE,
        times=np.zeros(n),
        ids=None,
        sources=None,
        numbers=np.zeros((n, 1)),
        vectors=(),
        strings=(said,),
        labels=[ClassName(label) for label in labels],
        versions=None,
    )


def accuracy(base: OnnxBase, batch: Batch) -> float:
    said = base.embed(batch).probabilities
    assert said is not None
    assert isinstance(batch.labels, list)
    best = [base.classes[place] for place in said.argmax(axis=1)]
    return float(np.mean([name == label for name, label in zip(best, batch.labels, strict=True)]))


@pytest.fixture(scope="module")
def tuned() -> tuple[Reservoir, Artifact]:
    """A base that knows two of three classes."""
    service = spec(f"lora:{__name__}:tiny")
    reservoir = Reservoir(service)
    reservoir.add(texts(300, 0, ("pay", "travel")))
    trained = train_base(service, reservoir, training=Training(batch=32, steps_max=80, round_steps=40, rate=3e-3))
    assert trained is not None
    reservoir.trained(OnnxBase(trained.artifact))
    return reservoir, trained.artifact


def test_adapters_learn_and_the_transformers_own_weights_are_neither_changed_nor_kept(
    tuned: tuple[Reservoir, Artifact],
) -> None:
    base = OnnxBase(tuned[1])
    assert accuracy(base, texts(300, 9, ("pay", "travel"))) > 0.95
    assert base.width == 32
    features = base.embed(texts(50, 3)).features
    np.testing.assert_allclose(features.std(axis=1), 1.0, atol=1e-2)
    weights = unpacked(tuned[1].weights)
    adapters = [name for name in weights if "lora_" in name]
    assert len(adapters) >= 24
    assert set(weights) - set(adapters) == {"weight/last.weight", "weight/last.bias"}


def test_a_text_gets_the_same_bytes_whatever_texts_stand_beside_it_and_any_text_gets_an_answer(
    tuned: tuple[Reservoir, Artifact],
) -> None:
    base = OnnxBase(tuned[1])
    batch = texts(30, 5)
    batch.strings[0][:4] = [None, "", "unheard of " * 50, "card"]
    whole = base.embed(batch)
    assert np.isfinite(whole.features).all()
    for place in (0, 1, 2, 3, 17):
        alone = base.embed(batch.rows(np.array([place])))
        assert alone.features.tobytes() == whole.features[place : place + 1].tobytes()


def test_a_third_class_is_learned_from_the_adapters_of_before(tuned: tuple[Reservoir, Artifact]) -> None:
    service = spec(f"lora:{__name__}:tiny")
    reservoir = Reservoir(service)
    reservoir.load(tuned[0].save())
    reservoir.add(texts(200, 1, ("food",)))
    training = Training(batch=32, steps_max=60, round_steps=30, rate=3e-3)
    trained = train_base(service, reservoir, champion=tuned[1], training=training)
    assert trained is not None
    assert trained.artifact.manifest.parent == tuned[1].id
    base = OnnxBase(trained.artifact)
    assert accuracy(base, texts(300, 9)) > 0.95


def test_heads_and_servers_read_its_features_from_disk_without_torch(
    tuned: tuple[Reservoir, Artifact], tmp_path: Path
) -> None:
    service = spec(f"lora:{__name__}:tiny")
    bases = LocalBases(tmp_path)
    base = bases.put(tuned[1])
    model = rebuild(service, base.id, bases, [texts(400, 2, ("pay", "travel"))])
    assert model is not None
    assert model.learn(texts(200, 3, ("pay", "travel"))).losses.mean() < 0.1
    code = (
        "import sys; from pathlib import Path; from penstock.learn.slow.base import LocalBases\n"
        f"base = LocalBases(Path({str(tmp_path)!r}))({base.id!r})\n"
        "assert base.width == 32\n"
        "found = {'torch', 'transformers', 'peft'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.long
def test_a_folder_with_a_transformer_is_read_as_well(tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    transformer().save_pretrained(folder)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer(), unk_token="?").save_pretrained(folder)
    service = spec(f"lora:{folder}")
    reservoir = Reservoir(service)
    reservoir.add(texts(200, 0))
    trained = train_base(service, reservoir, training=Training(batch=16, steps_max=5, round_steps=5))
    assert trained is not None
    assert OnnxBase(trained.artifact).classes == reservoir.classes


def test_a_transformer_that_is_nowhere_is_refused_by_name(tmp_path: Path) -> None:
    reservoir = Reservoir(spec("mlp"))
    reservoir.add(texts(200, 0))
    for missing in (f"lora:{tmp_path / 'none'}", "lora:no_such_package:tiny"):
        with pytest.raises(TrainingFailed, match="made no transformer"):
            train_base(spec(missing), reservoir)
